"""hwsearch report"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hwsearch.report.contest import contest_table, read_contest
from hwsearch.report.html import write_report
from hwsearch.report.measured_rung import measured_table
from hwsearch.report.summary import read_measured, read_summary
from hwsearch.report.table import answer_table
from hwsearch.search.run_folder import RunFolder


def main(arguments: argparse.Namespace) -> None:
    folder = RunFolder(Path(arguments.run))
    summary, measured, contest = read_summary(folder), read_measured(folder), read_contest(folder)
    write_report(folder)
    if arguments.json:
        rungs = {"measured": measured, "trained": contest}
        print(json.dumps(summary | {name: found for name, found in rungs.items() if found is not None}))
        return
    print(answer_table(summary))
    if measured is not None:
        print(f"\n{measured_table(measured)}")
    if contest is not None:
        print(f"\nTrained:\n{contest_table(contest)}")
