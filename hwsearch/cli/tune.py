"""hwsearch tune"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Before numpy is loaded: the tuner's matrices are small, and their threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hwsearch.cli import tune_replay
from hwsearch.cli.tuning_progress import tuning_progress
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import at_hand
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.tuned import LENGTHS
from hwsearch.report.tuned import tuned_table
from hwsearch.space.search_space import load_space
from hwsearch.tuning.problems import (
    KERNELS, WINDOWS, Problem, Wanted, everything, kernels_named, of_space, problems, runs,
)  # fmt: skip
from hwsearch.tuning.tables import Tables
from hwsearch.tuning.run import Effort, tune
from hwsearch.workload import parse_workload

HEAD_SIZE = 64


def main(arguments: argparse.Namespace) -> None:
    if arguments.replay:
        tune_replay.main(arguments)
        return
