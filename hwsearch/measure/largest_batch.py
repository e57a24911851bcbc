"""The largest batch of a workload's lengths that fits a device, found by running batches until one does not.

Doubled until one fails, then halved in between, to 1 %. Batches share a process as far as they fit; one that
does not has failed in a process of its own, which may have died of it, or took too long (EncoderTimer).
A GPU's limit is its memory; a CPU's is stated and enforced by the kernel (RLIMIT_DATA), since a machine that
runs out of memory ends other processes than the one that is too large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hwsearch.measure.device import CUDA
from hwsearch.measure.encoder import TIMEOUT_S, EncoderTimer, OpenBench, open_bench
from hwsearch.measure.failure import CRASH, OUT_OF_MEMORY, Failure
from hwsearch.measure.job import Job
from hwsearch.workload import MAX_SEQUENCES, Workload

# How a batch fails that is too large; the system may end its process. Whatever else fails is not of its size.
OF_ITS_SIZE = (OUT_OF_MEMORY, CRASH)


@dataclass(frozen=True)
class LargestBatch:
    """
    Attributes:
        sequences, tokens, peak_bytes: of the largest batch that ran; 0, 0 and None where none did.
        next_sequences: the smallest that did not; None where no batch failed.
        next_failure: why it did not. Not out of memory: a larger batch may fit all the same.
        tried: batches.
    """

    sequences: int
    tokens: int
    peak_bytes: int | None
    next_sequences: int | None
    next_failure: Failure | None
    tried: int


def largest_batch(
    job: Job,
    *,
    device: str,
    index: int = 0,
    memory_bytes: int | None = None,
    timeout_s: float = TIMEOUT_S,
    report: Callable[[str], None] = lambda line: None,
    bench: OpenBench = open_bench,
) -> LargestBatch:
    """As the module's docstring says, beginning with the job's own batch.

    Args:
        memory_bytes: what tensors may take, on a GPU of torch's allocator, on a CPU over what the process
            holds before; None is all that the device has.
        timeout_s: for each batch.
        report: is told of every batch.

    Raises HwsearchError as `Job.check` does.
    """
    job.check()
    if device != CUDA and job.runtime == "graph":  # as measure_job does
        job = replace(job, runtime="eager")
    peaks: dict[int, int | None] = {0: None}
    failures: dict[int, Failure] = {}

    def fits(sequences: int) -> bool:
        batch = replace(job, workload=workload_like(job.workload, sequences))
        answer = timer.peak_of(batch, memory_bytes, timeout_s=timeout_s)
        if isinstance(answer, Failure):
            failures[sequences] = answer
        else:
            peaks[sequences] = answer
        report(f"{sequences:,} sequences: {failures.get(sequences, 'fits')}")
        return sequences in peaks

    with EncoderTimer(device, index, bench=bench) as timer:
        batch = job.workload.batch_size
        while batch <= MAX_SEQUENCES and fits(batch):
            batch *= 2
        while failures and failures[min(failures)].kind in OF_ITS_SIZE:
            if min(failures) - max(peaks) <= max(1, max(peaks) // 100):
                break
            fits((min(failures) + max(peaks)) // 2)
    most, least = max(peaks), min(failures, default=None)
    return LargestBatch(
        sequences=most,
        tokens=workload_like(job.workload, most).tokens,
        peak_bytes=peaks[most],
        next_sequences=least,
        next_failure=None if least is None else failures[least],
        tried=len(peaks) - 1 + len(failures),
    )


def workload_like(workload: Workload, sequences: int) -> Workload:
    """So many sequences of the same mix: its lengths as often as they go, and an even choice for the rest."""
    whole, rest = divmod(sequences, workload.batch_size)
    ordered = sorted(workload.lengths)
    chosen = tuple(ordered[(2 * place + 1) * len(ordered) // (2 * rest)] for place in range(rest))
    name = f"{sequences} like {workload.spec}"
    return Workload(name, workload.lengths * whole + chosen, workload.padded_length)
