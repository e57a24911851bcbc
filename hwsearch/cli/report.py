"""hwsearch report"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hwsearch.report.contest import contest_table, read_contest
from hwsearch.report.html import write_report
from hwsearch.report.summary import read_summary
from hwsearch.report.table import answer_table
from hwsearch.search.run_folder import RunFolder


def main(arguments: argparse.Namespace) -> None:
    folder = RunFolder(Path(arguments.run))
    summary, contest = read_summary(folder), read_contest(folder)
    write_report(folder)
    if arguments.json:
        print(json.dumps(summary if contest is None else {**summary, "trained": contest}))
        return
    print(answer_table(summary))
    if contest is not None:
        print(f"\nTrained:\n{contest_table(contest)}")
