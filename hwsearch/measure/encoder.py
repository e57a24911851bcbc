"""Times encoders on one device, each in a process of its own.

    with EncoderTimer("cuda", 0) as timer:
        row = timer.measure(Job(shape, workload, "bf16", "inference", "graph", "none"), timeout_s=600)
        if isinstance(row, Failure):
            ...                                  # row.kind, row.reason; the next job is not harmed
        row["p50_s"], row["taint"]

No torch is imported here: the child does that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hwsearch.measure.child import Child
from hwsearch.measure.device import CUDA
from hwsearch.measure.failure import CRASH, ERROR, TIME_OUT, Failure
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


class EncoderTimer:
    """A device, and the process that runs a model on it.

    Jobs in a row that differ in the workload alone share the process: the model is built, and compiled, once.
    Any other job gets a fresh one, and so does the next after any failure. What fails where others ran before
    is tried again in a fresh process, a time-out excepted: a failure is never what another workload left.

    Between two jobs the process keeps no core busy, but its model stays in the device's memory until `close`,
    or until a job of another model: which of them comes next is not known here.

    One thread at a time may use it.
    """

    def __init__(self, device: str = CUDA, index: int = 0, *, bench: OpenBench = open_bench) -> None:
        """Nothing starts before the first job.

        Args:
            device, index: "cuda" and the number of the GPU in PCI order, among those that the process sees;
                or "cpu".
            bench: builds in the child what is asked; tests give their own, which may die.
        """
        self._device = device
        self._child = Child(bench, device, index)
        self._model: object = None  # of the jobs that the process ran

    def measure(
        self,
        job: Job,
        *,
        precision: float = PRECISION,
        energy: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Row | Failure:
        """The job's row, or why there is none. Raises HwsearchError as `Job.check` does, and nothing else.

        What has no CUDA graph, although one is asked for, is run eagerly; the row's `runtime` and `note` say
        so.

        Args:
            precision: samples are taken until the mean's 95 % interval is that narrow, relative to either
                side, 60 are taken or, for calls that take long, 10 s have passed; `error` says what was
                reached.
            energy: repeat the call for a second more, and read the card's energy.
            timeout_s: for building, compiling and timing together.
        """
        job.check()
        stop = time.monotonic() + timeout_s
        note, asked = None, job
        if job.runtime == "graph" and self._device != CUDA:
            note, asked = _without_graph(job, "they are for NVIDIA GPUs")
        step, found = self._take(_steps(asked, precision, energy), asked, stop)
        if step == "capture" and found.kind in (ERROR, CRASH):
            note, asked = _without_graph(job, str(found))
            _, found = self._take(_steps(asked, precision, energy), asked, stop)
        if isinstance(found, Failure):
            return found
        return {**measured_row(job, found, note), "runtime": asked.runtime}

    def peak_of(
        self, job: Job, memory_bytes: int | None, *, timeout_s: float = TIMEOUT_S
    ) -> int | Failure | None:
        """Peak bytes of a job, as EncoderBench.peak_of has them; all jobs of a model get the same limit."""
        _, found = self._take([("peak_of", job, memory_bytes)], job, time.monotonic() + timeout_s)
        peak: int | Failure | None = found
        return peak

    def close(self) -> None:
        """End the process, if there is one, at once. A later job starts another."""
        self._model = None
        self._child.close()

    def _take(self, steps: Sequence[tuple[Any, ...]], job: Job, stop: float) -> tuple[str, Any]:
        """Call the bench's methods for a job, up to one that fails; the last one's name and its answer."""
        used = job.model == self._model
        if not used:
            self.close()
            self._model = job.model
        for step, *arguments in steps:
            answer = self._child.call(step, *arguments, timeout=max(1.0, stop - time.monotonic()))
            if isinstance(answer, Failure):
                self.close()
                return self._take(steps, job, stop) if used and answer.kind != TIME_OUT else (step, answer)
        return step, answer

    def __enter__(self) -> EncoderTimer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def measure_job(
    job: Job,
    *,
    device: str = CUDA,
    index: int = 0,
    bench: OpenBench = open_bench,
    precision: float = PRECISION,
    energy: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Row | Failure:
    """One job, in a process that nothing else runs in; as EncoderTimer and its `measure` say."""
    with EncoderTimer(device, index, bench=bench) as timer:
        return timer.measure(job, precision=precision, energy=energy, timeout_s=timeout_s)


def _steps(job: Job, precision: float, energy: bool) -> list[tuple[Any, ...]]:
    capture = [("capture",)] if job.runtime == "graph" else []
    return [("open", job), *capture, ("time", precision, energy)]


def _without_graph(job: Job, why: str) -> tuple[str, Job]:
    return f"no CUDA graph, run eagerly: {why}", replace(job, runtime="eager")
