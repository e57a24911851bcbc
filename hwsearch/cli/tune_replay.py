"""hwsearch tune --replay"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from pathlib import Path

# Before numpy is loaded: the matrices are small, and their threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hwsearch.errors import HwsearchError
from hwsearch.files import require_writable, write_whole
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.recorded import RecordedSpace, constrained
from hwsearch.tuning.replay import Evaluation, replay
from hwsearch.tuning.t1_file import read_t1


def main(arguments: argparse.Namespace) -> None:
    budget_s, seeds = arguments.budget_seconds, 1 if arguments.seeds is None else arguments.seeds
    if budget_s is None or arguments.trace is None:
        raise HwsearchError("--replay needs --budget-seconds S and --trace OUT.jsonl")
    if not 0 < budget_s < math.inf:
        raise HwsearchError(f"--budget-seconds: found {budget_s}; accepted: a positive number")
    if seeds < 1:
        raise HwsearchError(f"--seeds: found {seeds}; accepted: 1 or more")
    trace = Path(arguments.trace)
    require_writable(trace)
    recorded = read_recorded(Path(arguments.replay))
    whole = len(recorded)
    if arguments.t1:
        recorded = constrained(recorded, read_t1(Path(arguments.t1)), arguments.t1)
    runs = [list(replay(recorded, budget_s, seed)) for seed in range(seeds)]
    write_whole(trace, "".join(f"{evaluation.line()}\n" for run in runs for evaluation in run))
    print(_summary(recorded, whole, runs))


def _summary(recorded: RecordedSpace, whole: int, runs: list[list[Evaluation]]) -> str:
    removed = whole - len(recorded)
    lines = [
        f"{len(recorded):,} configurations, {len(recorded.failures):,} of which failed;"
        f" fastest {recorded.optimum:.6g}"
        + (f"; constraints removed {removed:,} of the cache's" if removed else "")
    ]
    evaluations = [evaluation for run in runs for evaluation in run]
    if not evaluations:
        return f"{lines[0]}\nno evaluation fits into the budget"
    bests = [run[-1].best / recorded.optimum for run in runs if run and run[-1].best is not None]
    overhead_ms = 1e3 * statistics.mean(evaluation.overhead_s for evaluation in evaluations)
    lines.append(
        f"{len(runs)} seeds: {len(evaluations) / len(runs):.0f} evaluations each,"
        f" {overhead_ms:.1f} ms a proposal"
    )
    if bests:
        lines.append(
            f"best found / fastest: mean {statistics.mean(bests):.4f}, median {statistics.median(bests):.4f},"
            f" worst {max(bests):.4f}"
        )
    if len(bests) < len(runs):
        lines.append(f"{len(runs) - len(bests)} seeds met no configuration that runs")
    return "\n".join(lines)
