"""Times one encoder on one device, in a process of its own.

    row = measure_job(Job(shape, workload, "bf16", "inference", "graph", "none"), timeout_s=600)
    if isinstance(row, Failure):
        ...                                      # row.kind, row.reason; the next job is not harmed
    row["p50_s"], row["taint"]

No torch is imported here: the child does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hwsearch.measure.child import Child
from hwsearch.measure.device import CUDA
from hwsearch.measure.failure import CRASH, ERROR, Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row, measured_row

if TYPE_CHECKING:
    from hwsearch.measure.encoder_bench import EncoderBench

# Of the half width of the mean's 95 % interval. Between two processes a GPU differs by as much.
PRECISION = 0.01
# Building, compiling and measuring one encoder, the start of the process aside.
TIMEOUT_S = 900.0

OpenBench = Callable[[str, int], object]


def open_bench(device: str, index: int) -> EncoderBench:
    """Called in the child."""
    from hwsearch.measure.encoder_bench import open_bench

    return open_bench(device, index)


def measure_job(
    job: Job,
    *,
    device: str = CUDA,
    index: int = 0,
    precision: float = PRECISION,
    energy: bool = False,
    timeout_s: float = TIMEOUT_S,
    bench: OpenBench = open_bench,
) -> Row | Failure:
    """The job's row, or why there is none. Raises HwsearchError as `Job.check` does, and nothing else.

    What has no CUDA graph, although one is asked for, is run eagerly; the row's `runtime` and `note` say so.

    Args:
        device, index: "cuda" and the number of the GPU in PCI order, among those that the process sees; or
            "cpu".
        precision: samples are taken until the mean's 95 % interval is that narrow, relative to either side,
            60 are taken or, for calls that take long, 10 s have passed; `error` is what was reached.
        energy: repeat the call for a second more, and read the card's energy.
        timeout_s: for building, compiling and timing together.
        bench: builds in the child what is asked; tests give their own, which may die.
    """
    job.check()
    stop = time.monotonic() + timeout_s
    note, asked = None, job
    if job.runtime == "graph" and device != CUDA:
        note, asked = _without_graph(job, "they are for NVIDIA GPUs")
    while True:
        with Child(bench, device, index) as child:
            failed = child.call("open", asked, timeout=_left(stop))
            if failed is None and asked.runtime == "graph":
                failed = child.call("capture", timeout=_left(stop))
                if isinstance(failed, Failure) and failed.kind in (ERROR, CRASH):
                    # In another process: nothing of the failed capture is left there.
                    note, asked = _without_graph(job, str(failed))
                    continue
            found = failed or child.call("time", precision, energy, timeout=_left(stop))
        if isinstance(found, Failure):
            return found
        return {**measured_row(job, found, note), "runtime": asked.runtime}


def _without_graph(job: Job, why: str) -> tuple[str, Job]:
    return f"no CUDA graph, run eagerly: {why}", replace(job, runtime="eager")


def _left(stop: float) -> float:
    return max(1.0, stop - time.monotonic())
