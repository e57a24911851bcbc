"""hwsearch run"""

from __future__ import annotations

import argparse
import json
import sys

from hwsearch.api import run
from hwsearch.cli.progress import progress
from hwsearch.report.table import answer_table


def main(arguments: argparse.Namespace) -> None:
    with progress() as report:
        result = run(
            arguments.space,
            gpus=arguments.gpus.split(",") if arguments.gpus is not None else None,
            sampler=arguments.sampler,
            trials=arguments.trials,
            seed=arguments.seed,
            out=arguments.out,
            storage=arguments.storage,
            report=report,
            warn=lambda message: print(f"hwsearch: warning: {message}", file=sys.stderr),
        )
    if arguments.json:
        print(json.dumps(result.summary()))
    else:
        print(answer_table(result.summary()))
        print(
            f"\nEverything is in {result.folder.path}: front.csv, candidates.parquet, winners/, report.html"
        )
