"""hwsearch run"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from hwsearch.api import run, run_and_train
from hwsearch.cli.progress import progress
from hwsearch.errors import HwsearchError
from hwsearch.report.contest import contest_table
from hwsearch.report.table import answer_table

OF_THE_RECIPE = ("tokens_per_step", "sequence_length", "learning_rate")
OF_TRAINING = ("data", "tokenizer", "train_tokens")


def main(arguments: argparse.Namespace) -> None:
    recipe, training = _given(arguments, OF_THE_RECIPE), _given(arguments, OF_TRAINING)
    trains = arguments.rung == "train"
    if not trains and (option := next(iter({**training, **recipe}), None)):
        raise HwsearchError(f"--{option.replace('_', '-')}: needs --rung train")
    with progress() as report:
        shared: dict[str, Any] = {
            "gpus": arguments.gpus.split(",") if arguments.gpus is not None else None,
            "sampler": arguments.sampler,
            "seed": arguments.seed,
            "out": arguments.out,
            "storage": arguments.storage,
            "report": report,
            "warn": lambda message: print(f"hwsearch: warning: {message}", file=sys.stderr),
        }
        if trains:
            if arguments.trials is not None:
                training["count"] = arguments.trials
            training["say"] = lambda line: print(line, file=sys.stderr)
            contest = run_and_train(arguments.space, **training, recipe=recipe, **shared)
            folder, summary, text = contest.folder.path, contest.summary(), contest_table
            files = "trained.csv, trained.json, trained/shape.yaml (the best), report.html"
        else:
            result = run(arguments.space, trials=arguments.trials, **shared)
            folder, summary, text = result.folder.path, result.summary(), answer_table
            files = "front.csv, candidates.parquet, winners/, report.html"
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(text(summary))
        print(f"\nEverything is in {folder}: {files}")


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
