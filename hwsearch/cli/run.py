"""hwsearch run"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsearch.api import run, run_and_measure, run_and_train
from hwsearch.cli.progress import progress
from hwsearch.errors import HwsearchError
from hwsearch.report.contest import contest_table
from hwsearch.report.measured_rung import measured_table
from hwsearch.report.table import answer_table
from hwsearch.search.candidates import Report

OF_THE_RECIPE = ("tokens_per_step", "sequence_length", "learning_rate")
# Options by the rung that they belong to.
OPTIONS = {
    "measure": ("backend", "engine", "ray_address"),
    "train": ("data", "tokenizer", "train_tokens", *OF_THE_RECIPE),
}


def main(arguments: argparse.Namespace) -> None:
    given = {rung: _given(arguments, names) for rung, names in OPTIONS.items()}
    for rung, options in given.items():
        if rung != arguments.rung and options:
            raise HwsearchError(f"--{next(iter(options)).replace('_', '-')}: needs --rung {rung}")
    with progress() as report:
        answer = _run(arguments, given.get(arguments.rung, {}), report)
    if arguments.json:
        print(json.dumps(answer.summary))
    else:
        print(answer.text(answer.summary))
        print(f"\nEverything is in {answer.folder}: {answer.files}")


@dataclass(frozen=True)
class _Answer:
    folder: Path
    summary: dict[str, Any]
    text: Callable[[dict[str, Any]], str]
    files: str


def _run(arguments: argparse.Namespace, options: dict[str, Any], report: Report) -> _Answer:
    shared: dict[str, Any] = {
        "gpus": arguments.gpus.split(",") if arguments.gpus is not None else None,
        "sampler": arguments.sampler,
        "seed": arguments.seed,
        "out": arguments.out,
        "storage": arguments.storage,
        "report": report,
        "warn": lambda message: print(f"hwsearch: warning: {message}", file=sys.stderr),
    }
    if arguments.rung == "predict":
        found = run(arguments.space, trials=arguments.trials, **shared)
        files = "front.csv, candidates.parquet, winners/, report.html"
        return _Answer(found.folder.path, found.summary(), answer_table, files)
    if arguments.trials is not None:
        options["count"] = arguments.trials
    if arguments.rung == "measure":
        measured = run_and_measure(arguments.space, **options, **shared)
        files = "measured.csv, measured.json, measured/ (the winners), measurements.jsonl, report.html"
        return _Answer(measured.folder.path, measured.summary(), measured_table, files)
    recipe = {name: options.pop(name) for name in OF_THE_RECIPE if name in options}
    options["say"] = lambda line: print(line, file=sys.stderr)
    contest = run_and_train(arguments.space, **options, recipe=recipe, **shared)
    files = "trained.csv, trained.json, trained/shape.yaml (the best), report.html"
    return _Answer(contest.folder.path, contest.summary(), contest_table, files)


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
