"""hwsearch export"""

from __future__ import annotations

import argparse

from hwsearch.api import write_export


def main(arguments: argparse.Namespace) -> None:
    for path in write_export(arguments.shape, arguments.format, arguments.out):
        print(path)
