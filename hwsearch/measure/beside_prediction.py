"""What the cost model says to the question that a job is."""

from __future__ import annotations

from hwsearch.cost.memory import CONTEXT_BYTES, encoder_memory
from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.measure.job import Job
from hwsearch.settings import Settings
from hwsearch.shape.table import ShapeTable


def prediction_of(job: Job, gpu: Gpu | None) -> tuple[Prediction | None, str]:
    """The prediction, or why there is none. A forced backend is priced as libraries' best."""
    if gpu is None:
        return None, "no profile fits this device"
    try:
        found = predict_shape(
            job.shape,
            gpu,
            job.workload,
            dtype=job.dtype,
            mode=job.mode,
            runtime=job.runtime,
            head=job.head,
            attention_times="tuned" if job.backend is None else "library",
        )
    except HwsearchError as error:
        return None, str(error)
    return found, ""


def predicted_largest_batch(job: Job, gpu: Gpu | None, memory_bytes: int | None) -> int | None:
    """Sequences like the workload's whose tensors should fit `memory_bytes`, or else all that the GPU has.

    None where neither is known.
    """
    if memory_bytes is not None:
        room = memory_bytes + CONTEXT_BYTES
    elif gpu is not None:
        room = gpu.memory_bytes
    else:
        return None
    settings = Settings(job.mode, job.runtime, job.head, job.dtype)
    memory = encoder_memory(ShapeTable.of([job.shape]), job.workload, settings, job.dtype)
    return int(memory.batch_within(room, job.workload.batch_size)[0])
