"""Why a prediction came out as it did: time by operator, what bounds each, and sizes nearby that gain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hwsearch.cost.batch import (
    OPTIMIZER_BYTES_PER_PARAMETER,
    TRAINING_KERNELS,
    WorkloadBatch,
)
from hwsearch.cost.bounds import Bound, find_bound
from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import Part, encoder_time
from hwsearch.cost.gemm import gemm_plan, gemm_seconds
from hwsearch.cost.layer import Attention, Gemm, Operator, Products, Stream
from hwsearch.cost.neighbours import Neighbour, find_neighbours
from hwsearch.cost.prediction import Prediction
from hwsearch.cost.runtime import GAP_S_PER_KERNEL, RUNTIMES
from hwsearch.cost.work import flops_and_bytes, only
from hwsearch.gpu.attention_constants import attention_constants
from hwsearch.gpu.attention_kernels import choose_kernel
from hwsearch.gpu.calibration import Evidence
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import Settings
from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload

OF_GEMM: dict[str, Bound] = {
    "issue": "compute",
    "latency": "latency",
    "power": "power",
    "memory": "memory",
    "overhead": "overhead",
}


@dataclass(frozen=True)
class Variant:
    """How the fastest variant of a product runs; see `hwsearch.cost.gemm_plan.GemmPlan`."""

    tile_m: int
    tile_n: int
    split_k: int
    waves: int
    tail_utilisation: float
    tile_utilisation: float


@dataclass(frozen=True)
class OperatorTime:
    """Some kernels of one pass that do the same.

    Attributes:
        part: the entry of `Prediction.parts_s` that they belong to.
        kernel: product, data gradient or weight gradient; attention; or passes, which only move bytes.
        runs: kernels of one pass over the batch, all layers together.
        seconds, share: of all runs, and over the device's work.
        bound: what would have to be faster to make them faster.
        flops_per_s, flops_share: operations, padding of tiles left out, and over the GPU's dense rate.
        bytes_per_s, bytes_share: operands and results, each counted once, and over the memory bandwidth.
        sizes: m, n and k of a product.
        variant: of a product on tensor cores.
    """

    part: str
    kernel: str
    runs: int
    seconds: float
    share: float
    bound: Bound
    flops_per_s: float
    flops_share: float
    bytes_per_s: float
    bytes_share: float
    sizes: tuple[int, int, int] | None = None
    variant: Variant | None = None


@dataclass(frozen=True)
class Source:
    """The evidence of one block of constants."""

    block: str
    evidence: Evidence


@dataclass(frozen=True)
class Explanation:
    """What stands behind one `Prediction`.

    Attributes:
        bound: whether the GPU's work or the host's launches set the latency.
        launches: kernels that the host launches, 0 where a graph or an engine replays them.
        host_s: what the launches take.
        operators: by time, longest first; their seconds add up to the device's work.
        neighbours: sizes nearby that are faster, or larger for nothing.
        sources: of the constants that were used.
        end_to_end_error_percent: median error of whole encoders with this runtime on public tables.
    """

    bound: Literal["device", "launches"]
    launches: int
    host_s: float
    operators: tuple[OperatorTime, ...]
    neighbours: tuple[Neighbour, ...]
    sources: tuple[Source, ...]
    end_to_end_error_percent: float


def explain(prediction: Prediction, shape: EncoderShape, gpu: Gpu, workload: Workload) -> Explanation:
    """Take `prediction` apart; shape, GPU and workload are those that it was made for."""
    p = prediction
    settings = Settings(p.mode, p.runtime, p.head, p.dtype, p.recompute, attention_times=p.attention_times)
    time = encoder_time(DistinctLayers(ShapeTable.of([shape])), gpu, workload, settings)
    batch = WorkloadBatch.of(gpu, workload, settings, shape.architecture)
    host_s, per_kernel = float(time.host[0]), RUNTIMES[p.runtime].host_s_per_kernel
    works = [work for part in time.parts for work in _works_of_part(part, batch)]
    return Explanation(
        bound="launches" if p.latency_s > p.device_s else "device",
        launches=round(host_s / per_kernel) if per_kernel else 0,
        host_s=host_s,
        operators=tuple(_priced(work, batch, p.device_s) for work in sorted(works, key=lambda w: -w.seconds)),
        neighbours=find_neighbours(prediction, shape, gpu, workload, settings),
        sources=_sources(time.parts, gpu, p.dtype),
        end_to_end_error_percent=RUNTIMES[p.runtime].end_to_end_error_percent,
    )


def _sources(parts: Sequence[Part], gpu: Gpu, dtype: str) -> tuple[Source, ...]:
    """Attention's are those of the kernel that runs, which need not be the one in the profile."""
    products, streams = gpu.calibration.gemm[dtype].evidence, gpu.calibration.stream.evidence
    operators = (operator for part in parts for operator in part.operators)
    fused = {choose_kernel(gpu, dtype, o.kernel) for o in operators if isinstance(o, Attention)}
    attention = [attention_constants(gpu, dtype, kernel).evidence for kernel in sorted(fused)]
    return (
        Source(f"gemm {dtype}", products),
        *(Source(f"attention {dtype}", evidence) for evidence in attention),
        Source("stream", streams),
    )


@dataclass(frozen=True)
class _Work:
    """Kernels that will be one OperatorTime; `price` is their seconds on a GPU, all runs together."""

    part: str
    kernel: str
    runs: int
    flops: float
    bytes: float
    price: Callable[[Gpu], float]
    seconds: float
    sizes: tuple[int, int, int] | None = None


def _works_of_part(part: Part, batch: WorkloadBatch) -> list[_Work]:
    if not part.seconds.any():
        return []  # no layer of this kind
    if not part.operators:
        return [_optimizer(part, batch)]
    works = list(_works(part, batch))
    if not part.recomputed:
        return works
    again = {(w.kernel, w.sizes): w for w in _works(part, replace(batch, training=False))}
    return [_joined(w, again[w.kernel, w.sizes]) if (w.kernel, w.sizes) in again else w for w in works]


def _works(part: Part, batch: WorkloadBatch) -> Iterator[_Work]:
    """One for each product, for the kernels that only move bytes, and for attention."""
    times = int(part.times if isinstance(part.times, int) else part.times[0])
    others = [operator for operator in part.operators if not isinstance(operator, Gemm)]
    for gemm, count in Counter(o for o in part.operators if isinstance(o, Gemm)).items():
        yield from _products(part, gemm, count * times, batch)
    for kernel, kinds in (("attention", Attention | Products), ("passes", Stream)):
        if chosen := tuple(operator for operator in others if isinstance(operator, kinds)):
            yield _others(part, kernel, chosen, times, batch)


def _products(part: Part, gemm: Gemm, runs: int, batch: WorkloadBatch) -> Iterator[_Work]:
    for kernel, sizes in batch.gemm_sizes(gemm, part.distinct).items():
        m, n, k = (only(size) for size in sizes)

        def price(gpu: Gpu, m: int = m, n: int = n, k: int = k) -> float:
            return runs * (GAP_S_PER_KERNEL + float(gemm_seconds(gpu, batch.dtype, m, n, k)))

        moved = BYTES_PER_ELEMENT[batch.dtype] * (m * k + n * k + m * n)
        flops = 2.0 * m * n * k
        yield _Work(part.name, kernel, runs, runs * flops, runs * moved, price, price(batch.gpu), (m, n, k))


def _others(
    part: Part, kernel: str, operators: tuple[Operator, ...], times: int, batch: WorkloadBatch
) -> _Work:
    def price(gpu: Gpu) -> float:
        on_gpu = replace(batch, gpu=gpu)
        return times * sum(float(on_gpu.seconds(o, part.distinct, part.window)[0]) for o in operators)

    work = [flops_and_bytes(operator, part.distinct, part.window, batch) for operator in operators]
    runs = times * sum(o.kernels for o in operators) * (TRAINING_KERNELS if batch.training else 1)
    flops, moved = (times * sum(column) for column in zip(*work, strict=True))
    return _Work(part.name, kernel, runs, flops, moved, price, price(batch.gpu))


def _optimizer(part: Part, batch: WorkloadBatch) -> _Work:
    parameters = part.distinct["parameters"]

    def price(gpu: Gpu) -> float:
        return float(replace(batch, gpu=gpu).optimizer(parameters)[0])

    moved = OPTIMIZER_BYTES_PER_PARAMETER * float(parameters[0])
    return _Work(part.name, "passes", 1, 0.0, moved, price, price(batch.gpu))


def _joined(one: _Work, other: _Work) -> _Work:
    return replace(
        one,
        runs=one.runs + other.runs,
        flops=one.flops + other.flops,
        bytes=one.bytes + other.bytes,
        price=lambda gpu: one.price(gpu) + other.price(gpu),
        seconds=one.seconds + other.seconds,
    )


def _priced(work: _Work, batch: WorkloadBatch, device_s: float) -> OperatorTime:
    gpu, seconds = batch.gpu, work.seconds
    flops_per_s, bytes_per_s = work.flops / seconds, work.bytes / seconds
    bytes_share = bytes_per_s / gpu.bandwidth_bytes_per_s
    bound, variant = find_bound(gpu, batch.dtype, work.price), None
    if work.sizes is not None:
        bound, variant = _variant(gpu, batch.dtype, work.sizes)
        if bound == "memory" and bytes_share > 1:
            bound = "cache"
        if seconds / work.runs < 2 * GAP_S_PER_KERNEL:
            bound = "overhead"
    return OperatorTime(
        part=work.part,
        kernel=work.kernel,
        runs=work.runs,
        seconds=seconds,
        share=seconds / device_s,
        bound=bound,
        flops_per_s=flops_per_s,
        flops_share=flops_per_s / gpu.dense_flops_per_s[batch.dtype],
        bytes_per_s=bytes_per_s,
        bytes_share=bytes_share,
        sizes=work.sizes,
        variant=variant,
    )


def _variant(gpu: Gpu, dtype: str, sizes: tuple[int, int, int]) -> tuple[Bound, Variant]:
    plan = gemm_plan(gpu, dtype, *sizes)
    return OF_GEMM[str(plan.bound)], Variant(
        tile_m=int(plan.tile_m),
        tile_n=int(plan.tile_n),
        split_k=int(plan.split_k),
        waves=int(plan.waves),
        tail_utilisation=float(plan.tail_utilisation),
        tile_utilisation=float(plan.tile_utilisation),
    )
