"""What it costs to measure a shape's workloads on this machine's CPU, timing aside: all in one process, and
each in a process of its own.

    python benchmarks/shared_process.py [--runtime compile] [--rounds 3] [--shape L6-h256-a4-i512-v1024]

Both take turns, each with an empty cache of inductor's. Five samples are taken of each workload, so that
starting, building and compiling are what is seen. Beside wall clock stands CPU time, with other programs on
the machine the surer of the two.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable

from hwsearch.measure.encoder import EncoderTimer, measure_job
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.shape import parse_shape
from hwsearch.workload import parse_workload

WORKLOADS = ("fixed:64x4", "normal:64,16,16..128x8", "fixed:256x2", "normal:128,64,16..256x4")
LOOSE = 100.0


def together(jobs: list[Job]) -> list[Row | Failure]:
    with EncoderTimer("cpu") as timer:
        return [timer.measure(job, precision=LOOSE) for job in jobs]


def apart(jobs: list[Job]) -> list[Row | Failure]:
    return [measure_job(job, device="cpu", precision=LOOSE) for job in jobs]


def cost(way: Callable[[list[Job]], list[Row | Failure]], jobs: list[Job]) -> tuple[float, float]:
    """Seconds by the clock and of CPU time."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        for row in way(jobs):
            assert not isinstance(row, Failure), row
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", choices=("eager", "compile"), default="eager")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="L6-h256-a4-i512-v1024")
    arguments = parser.parse_args()
    shape = parse_shape(arguments.shape)
    jobs = [
        Job(shape, parse_workload(each), "fp32", "inference", arguments.runtime, "none") for each in WORKLOADS
    ]
    ways = {"one process": together, "a process each": apart}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(arguments.rounds):
        for name in reversed(ways) if turn % 2 else ways:
            found[name].append(cost(ways[name], jobs))
            wall, cpu = found[name][-1]
            print(f"{name:<16}{wall:7.1f} s, {cpu:7.1f} s of CPU time", flush=True)
    medians = [[statistics.median(each) for each in zip(*found[name], strict=True)] for name in ways]
    for what, one, each in zip(("wall clock", "CPU time"), *medians, strict=True):
        print(f"{what}: {one:.1f} s against {each:.1f} s, {each / one:.2f} x, {arguments.runtime}")


if __name__ == "__main__":
    main()
