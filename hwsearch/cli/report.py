"""hwsearch report"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hwsearch.report.html import write_report
from hwsearch.report.measured_rung import measured_table
from hwsearch.report.summary import read_measured, read_summary
from hwsearch.report.table import answer_table
from hwsearch.search.run_folder import RunFolder


def main(arguments: argparse.Namespace) -> None:
    folder = RunFolder(Path(arguments.run))
    summary, measured = read_summary(folder), read_measured(folder)
    write_report(folder)
    if arguments.json:
        print(json.dumps(summary | ({"measured": measured} if measured else {})))
    else:
        print(answer_table(summary) + (f"\n\n{measured_table(measured)}" if measured else ""))
