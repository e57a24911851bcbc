"""hwsearch run"""

from __future__ import annotations

import argparse
import json
import sys

from hwsearch.api import run, train_front
from hwsearch.cli.progress import progress
from hwsearch.errors import HwsearchError
from hwsearch.report.contest import contest_table
from hwsearch.report.table import answer_table

TRAINING = ("data", "tokenizer", "train_tokens", "tokens_per_step", "sequence_length", "learning_rate")


def main(arguments: argparse.Namespace) -> None:
    trains = arguments.rung == "train"
    training = {name: value for name in TRAINING if (value := getattr(arguments, name)) is not None}
    if training and not trains:
        raise HwsearchError(f"--{next(iter(training)).replace('_', '-')}: needs --rung train")
    if trains and arguments.trials is not None:
        training["count"] = arguments.trials
    with progress() as report:
        result = run(
            arguments.space,
            gpus=arguments.gpus.split(",") if arguments.gpus is not None else None,
            sampler=arguments.sampler,
            trials=None if trains else arguments.trials,
            seed=arguments.seed,
            out=arguments.out,
            storage=arguments.storage,
            report=report,
            warn=_warn,
        )
        if trains:
            contest = train_front(
                result, **training, seed=arguments.seed, storage=arguments.storage, report=report, warn=_warn
            )
    summary = contest.summary() if trains else result.summary()
    folder = result.folder.path
    if arguments.json:
        print(json.dumps(summary))
    elif trains:
        print(contest_table(summary))
        print(f"\nEverything is in {folder}: trained.csv, trained.json, trained/shape.yaml (the best)")
    else:
        print(answer_table(summary))
        print(f"\nEverything is in {folder}: front.csv, candidates.parquet, winners/, report.html")


def _warn(message: str) -> None:
    print(f"hwsearch: warning: {message}", file=sys.stderr)
