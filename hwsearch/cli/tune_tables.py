"""hwsearch tune --show, --export and --import"""

from __future__ import annotations

import argparse

from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import CPU
from hwsearch.kernels.tuned import folders
from hwsearch.report.tuned import placed_json, placed_table
from hwsearch.tuning.problems import kernels_named
from hwsearch.tuning.tables import in_force


def show(arguments: argparse.Namespace) -> None:
    """Print the rows that look-ups use."""
    if arguments.gpu and arguments.gpu != CPU and arguments.gpu not in gpu_names():
        load_gpu(arguments.gpu)  # says which names there are
    placed = in_force(kernels_named(arguments.kernel or ["attention"]), arguments.gpu)
    if arguments.json:
        print(placed_json(placed))
    elif placed:
        print(placed_table(placed))
    else:
        own, *shipped = folders()
        print(f"no tuned table of {arguments.gpu or 'any GPU'}; looked in {own} and {shipped[0]}")
