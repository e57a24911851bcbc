"""The predicted cost of one shape on one GPU for one batch."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.cost.batch import WorkloadBatch
from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import EncoderTime, encoder_time, with_attention
from hwsearch.cost.interval import ENCODER_INTERVAL
from hwsearch.cost.layer import Attention
from hwsearch.cost.memory import encoder_memory
from hwsearch.cost.tuned_attention import AttentionTime
from hwsearch.cost.work import only
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import AttentionTimes, Head, Mode, RuntimeName, Settings
from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.shape.flops import count_flops
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload


@dataclass(frozen=True)
class Prediction:
    """Where a number comes from stands beside it.

    Attributes:
        latency_s: one batch, seconds; the longer of the device's work and the host's launches.
        latency_low_s, latency_high_s: 90 % of measured encoders lie between, see hwsearch.cost.interval.
        device_s: the device's work, `parts_s` summed.
        parts_s: seconds by operator, all layers together.
        recompute: training keeps each layer's input alone and runs the layer once more.
        flops: of one batch, padding included where the model computes it; recomputation does not count.
        tokens_per_s: real tokens, never padding.
        peak_bytes: predicted peak memory.
        largest_batch: sequences like the workload's that fit the GPU at once.
        attention_times: whose attention was to be priced, see hwsearch.settings.
        attention: where the time of each part that is one attention kernel comes from, by name of the part.
        calibration: what the GPU's constants rest on, see CalibrationKind in hwsearch.gpu.calibration.
    """

    shape: str
    gpu: str
    workload: str
    dtype: str
    mode: Mode
    recompute: bool
    runtime: RuntimeName
    head: Head
    latency_s: float
    latency_low_s: float
    latency_high_s: float
    device_s: float
    parts_s: dict[str, float]
    flops: int
    tokens_per_s: float
    peak_bytes: float
    largest_batch: int
    calibration: str
    attention_times: AttentionTimes
    attention: dict[str, AttentionTime]


def predict_shape(
    shape: EncoderShape,
    gpu: Gpu,
    workload: Workload,
    *,
    dtype: str | None = None,
    mode: Mode = "inference",
    runtime: RuntimeName = "graph",
    head: Head | None = None,
    recompute: bool = False,
    attention_times: AttentionTimes = "library",
) -> Prediction:
    """Predict one shape; the head defaults to none for inference and mlm for training.

    Raises HwsearchError for a dtype that the GPU lacks, and for recomputation outside training.
    """
    head = head or ("mlm" if mode == "training" else "none")
    settings = Settings(mode, runtime, head, dtype, recompute, attention_times=attention_times)
    settings = with_attention(settings, shape.architecture, gpu)
    table = ShapeTable.of([shape])
    time = encoder_time(DistinctLayers(table), gpu, workload, settings)
    batch = WorkloadBatch.of(gpu, workload, settings, shape.architecture)
    memory = encoder_memory(table, workload, settings, settings.dtype_on(gpu))
    latency = float(time.latency[0])
    return Prediction(
        shape=str(shape),
        gpu=gpu.name,
        workload=workload.spec,
        dtype=settings.dtype_on(gpu),
        mode=mode,
        recompute=recompute,
        runtime=runtime,
        head=settings.head,
        latency_s=latency,
        latency_low_s=latency * ENCODER_INTERVAL[0],
        latency_high_s=latency * ENCODER_INTERVAL[1],
        device_s=float(time.device[0]),
        parts_s={part.name: float(part.seconds[0]) for part in time.parts},
        flops=count_workload_flops(shape, workload, settings),
        tokens_per_s=workload.tokens / latency,
        peak_bytes=float(memory.peak_bytes[0]),
        largest_batch=int(memory.largest_batch(gpu, workload)[0]),
        calibration=gpu.calibration.kind,
        attention_times=attention_times,
        attention=_attention(time, batch),
    )


def _attention(time: EncoderTime, batch: WorkloadBatch) -> dict[str, AttentionTime]:
    """Of the one shape that was priced; kinds of layers that it lacks are left out."""
    return {
        part.name: batch.attention_time(
            operator, only(part.distinct["head_size"]), None if part.window is None else only(part.window)
        )
        for part in time.parts
        for operator in part.operators
        if isinstance(operator, Attention) and part.seconds.any()
    }


def count_workload_flops(shape: EncoderShape, workload: Workload, settings: Settings) -> int:
    unpads = shape.architecture.unpads
    lengths = workload.lengths if unpads else (workload.padded_length,) * workload.batch_size
    flops = count_flops(shape, lengths, head_tokens=settings.head_tokens(sum(lengths)))
    return flops.training if settings.training else flops.forward
