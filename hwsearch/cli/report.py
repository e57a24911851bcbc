"""hwsearch report"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hwsearch.report.html import write_report
from hwsearch.report.summary import read_summary
from hwsearch.report.table import answer_table
from hwsearch.search.run_folder import RunFolder


def main(arguments: argparse.Namespace) -> None:
    folder = RunFolder(Path(arguments.run))
    summary = read_summary(folder)
    write_report(folder)
    print(json.dumps(summary) if arguments.json else answer_table(summary))
