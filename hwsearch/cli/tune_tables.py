"""hwsearch tune --show, --export and --import"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import CPU
from hwsearch.kernels.tuned import cache_folder, own_folder, table_path
from hwsearch.report.tuned import placed_json, placed_table
from hwsearch.tuning.problems import kernels_named
from hwsearch.tuning.run import export
from hwsearch.tuning.t4_file import import_t4
from hwsearch.tuning.table_file import header_of, merge_rows
from hwsearch.tuning.tables import Placed, in_force


def show(arguments: argparse.Namespace) -> None:
    """Print the rows that look-ups use."""
    placed = _in_force(arguments)
    if arguments.json:
        print(placed_json(placed))
    else:
        print(placed_table(placed) if placed else _nothing(arguments))


def export_rows(arguments: argparse.Namespace) -> None:
    """Write a T4 file for each row that look-ups use."""
    placed = _in_force(arguments)
    if not placed:
        raise HwsearchError(f"--export: {_nothing(arguments)}")
    print("\n".join(map(str, export(Path(arguments.export), placed, cache_folder() / "tuning"))))


def import_row(arguments: argparse.Namespace) -> None:
    """Merge what a T4 file found into the user's own table; options say what the file does not."""
    path = Path(arguments.import_file)
    if len(arguments.kernel or []) > 1:
        raise HwsearchError(f"--import: found {' '.join(arguments.kernel)}; accepted: one kernel")
    said = {
        "kernel": arguments.kernel[0] if arguments.kernel else None,
        "gpu": arguments.gpu,
        "dtype": arguments.dtype,
        "head_size": _number("--head-size", arguments.head_size),
        "window": arguments.window,
        "length": _number("--length", arguments.length),
        "workload": arguments.workload,
        "heads": arguments.heads,
    }
    said = {name: value for name, value in said.items() if value is not None}
    # A file of another tuner says none of these.
    otherwise = {
        "source": "measured",
        "date": datetime.date.today().isoformat(),
        "method": f"imported from {path.name}",
    }
    found = import_t4(path, said, otherwise)
    gpu = load_gpu(found.gpu)
    folder = Path(arguments.out) if arguments.out else own_folder()
    header, table = header_of(found.kernel, gpu), table_path(folder, gpu.name, found.kernel)
    merge_rows(table, header, [found.row])
    print(placed_table([Placed(header, found.row, table)]))


def _in_force(arguments: argparse.Namespace) -> list[Placed]:
    if arguments.gpu not in (None, CPU):
        load_gpu(arguments.gpu)  # refuses an unknown name
    return in_force(kernels_named(arguments.kernel or ["attention"]), arguments.gpu)


def _nothing(arguments: argparse.Namespace) -> str:
    of = arguments.gpu or "any GPU"
    return f"no tuned table of {of}, neither in {own_folder()} nor among those that ship"


def _number(option: str, text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise HwsearchError(f"{option}: found {text!r}; accepted here: one whole number")
    return None if text is None else int(text)
