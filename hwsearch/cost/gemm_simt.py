"""Seconds of fp32 matrix products on SIMT lanes (TF32 off), one or a batch: the best kernel of cuBLAS.

cuBLAS ships a short list of kernels a GPU generation, read off public traces (NeuSight). For a kernel
with a tile of `outputs` x `rows`, and split-K s:

    tiles     = batch ceil(n / outputs) ceil(m / rows) s, and per SM: ceil(tiles / SMs)
    warps     = warps of the blocks that sit on an SM at once
    loop      = tiles per SM x outputs rows ceil(k / s) / (lanes x efficiency x issue share)
    cycles    = loop x (1 + latency / warps) + prologue x turns of blocks
    bytes_s   = bytes of operands, results and partial sums / (bandwidth x bandwidth_fraction)
    compute_s = cycles / (clock x compute_fraction)
    seconds   = floor + (compute_s^4 + bytes_s^4)^(1/4)

and the fastest pair of kernel and split wins. `clock` is hwsearch.gpu.power's: 70 W or 400 W decide it, not
the boost clock. `in_a_loop` says that the product is timed alone, repeated some dozens of times, as tables
of operators are: short ones then run above the sustained clock. The kernels and their constants are the same
for every GPU, which adds its compute and bandwidth fractions. Numbers: results/fit_fp32.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.gemm_plan import BOUNDS, GemmPlan, name_bounds
from hwsearch.cost.rounded import rounded_maximum
from hwsearch.gpu.calibration import SimtConstants
from hwsearch.gpu.power import loop_clock_hz, sustained_clock_hz
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

SPLITS = (1, 2, 4, 8)
# A partial sum is written and read again.
PARTIAL_SUM_BYTES = 8


@dataclass(frozen=True)
class SimtKernel:
    """One sgemm kernel: its tile, the warps of a block, and how many blocks an SM's registers hold.

    `kind` names its entry in SimtModel.efficiency: results a thread and the way it slices K.
    """

    outputs: int
    rows: int
    warps: int
    resident: int
    kind: str


_128X128 = SimtKernel(128, 128, 8, 2, "128x128")
_128X64 = SimtKernel(128, 64, 4, 4, "128x64")
_64X64 = SimtKernel(64, 64, 2, 8, "64x64")
_32X128 = SimtKernel(32, 128, 8, 4, "128x32")
_128X32 = SimtKernel(128, 32, 8, 4, "128x32")
_128X32_SLICED = SimtKernel(128, 32, 8, 2, "128x32 sliced")
_64X32_SLICED = SimtKernel(64, 32, 8, 2, "64x32 sliced")
_32X32_SLICED = SimtKernel(32, 32, 4, 4, "32x32 sliced")
_ALL = (_128X128, _128X64, _64X64, _32X128, _128X32, _128X32_SLICED, _64X32_SLICED, _32X32_SLICED)


@dataclass(frozen=True)
class SimtModel:
    """What all GPUs share.

    Attributes:
        efficiency: share of the lanes' rate in the inner loop, by kind of kernel, on 64 lanes an SM;
            latency is counted apart, so the best comes out near 1.
        prologue_cycles: of a turn of blocks outside its loop: first loads and last stores.
        latency_warps: warps on an SM at which latency costs as much as work.
    """

    efficiency: dict[str, float]
    prologue_cycles: float
    latency_warps: float


SIMT = SimtModel(
    efficiency={
        "128x128": 1.08,
        "128x64": 1.05,
        "64x64": 0.79,
        "128x32": 0.55,
        "128x32 sliced": 0.75,
        "64x32 sliced": 0.79,
        "32x32 sliced": 0.77,
    },
    prologue_cycles=4000.0,
    latency_warps=2.7,
)

# Share of the lanes that fp32 GEMMs keep busy, against Volta's: SMs with 128 lanes issue one instruction a
# clock for 32 of them, so every load and address takes the place of a product; half of the lanes of GA10x,
# Ada and GB202 are integer lanes too. Best square products over what a Volta SM would reach at boost, from
# the source of hwsearch.gpu.power (TFLOP/s: H100-SXM 51.9, RTX 3090 24.8, A10G 23.4, RTX 4090 54.7, L20 37.3,
# RTX 5090 67, B200 66); Pascal from NeuSight.
ISSUE_SHARE = {(6, 0): 0.95, (8, 6): 0.75, (8, 9): 0.71, (9, 0): 0.86, (10, 0): 0.92, (12, 0): 0.72}


def sgemm_seconds(
    gpu: Gpu,
    dtype: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    in_a_loop: bool = False,
    model: SimtModel = SIMT,
) -> NDArray[np.float64]:
    """Device time of y[m, n] = x[m, k] w[n, k]^T, without the CPU's launch.

    m, n, k are positive integers that broadcast together; float64 seconds in the broadcast shape. `dtype`
    is fp32, or fp16 on a GPU without tensor cores, which multiplies two halves a lane.
    """
    work = _fastest(gpu, dtype, model, _kernels(gpu), SPLITS, 1, m, n, k, in_a_loop)
    return _seconds(gpu, dtype, in_a_loop, work)


def sgemm_plan(
    gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike, model: SimtModel = SIMT
) -> GemmPlan:
    """The price of `sgemm_seconds` with the kernel behind it; arguments as there."""
    variants = [(kernel, split) for split in SPLITS for kernel in _kernels(gpu)]
    works = [_fastest(gpu, dtype, model, (kernel,), (split,), 1, m, n, k) for kernel, split in variants]
    times = np.array([(w.compute_s, w.bytes_s) for w in works])
    best = rounded_maximum(times[:, 0], times[:, 1]).argmin(axis=0)
    compute_s, bytes_s = np.take_along_axis(times, best[np.newaxis, np.newaxis], axis=0)[0]
    tile_m, tile_n, warps, resident, split_k = np.array(
        [(kernel.rows, kernel.outputs, kernel.warps, kernel.resident, split) for kernel, split in variants]
    ).T[:, best]
    m, n = np.asarray(m), np.asarray(n)
    grid = -(-m // tile_m) * -(-n // tile_n)
    waves = -(-grid * split_k // gpu.sms)
    clock_hz, constants = sustained_clock_hz(gpu, dtype), _constants(gpu, dtype)
    prologues_s = model.prologue_cycles * -(-waves // resident) / (clock_hz * constants.compute_fraction)
    of_compute = np.where(
        model.latency_warps > warps * np.minimum(waves, resident),
        BOUNDS.index("latency"),
        BOUNDS.index("power" if clock_hz < gpu.boost_hz else "issue"),
    )
    by_memory = bytes_s > compute_s
    seconds = constants.floor_s + rounded_maximum(compute_s, bytes_s)
    return GemmPlan(
        seconds,
        tile_m,
        tile_n,
        split_k,
        waves,
        tail_utilisation=grid * split_k / (waves * gpu.sms),
        tile_utilisation=m * n / (grid * tile_m * tile_n),
        bound=name_bounds(
            np.where(by_memory, BOUNDS.index("memory"), of_compute),
            np.where(by_memory, bytes_s, compute_s - prologues_s),
            seconds,
        ),
    )


def _kernels(gpu: Gpu) -> tuple[SimtKernel, ...]:
    return _ALL if gpu.compute_capability >= (7, 0) else (_64X64, _32X128, _128X32)


def sgemm_batched_seconds(
    gpu: Gpu,
    dtype: str,
    b: ArrayLike,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    in_a_loop: bool = False,
    model: SimtModel = SIMT,
) -> NDArray[np.float64]:
    """Device time of b products y[m, n] = x[m, k] w[k, n] in one call; arguments as in `sgemm_seconds`."""
    capability = gpu.compute_capability
    kernels: tuple[SimtKernel, ...]
    if capability >= (8, 0):
        kernels = (_128X128,)
    elif capability >= (7, 0):
        kernels = (_128X64, _64X64, _32X128, _128X32)
    else:
        kernels = (_128X64,)
    work = _fastest(gpu, dtype, model, kernels, (1,), b, m, n, k, in_a_loop)
    return _seconds(gpu, dtype, in_a_loop, work)


@dataclass(frozen=True)
class _Work:
    """What the fastest kernel does: seconds of its cycles at the sustained clock, and of its bytes."""

    compute_s: NDArray[np.float64]
    bytes_s: NDArray[np.float64]


def _seconds(gpu: Gpu, dtype: str, in_a_loop: bool, work: _Work) -> NDArray[np.float64]:
    busy_s = _busy_seconds(gpu, dtype, in_a_loop, work.compute_s, work.bytes_s)
    return np.asarray(_constants(gpu, dtype).floor_s + busy_s)


def _busy_seconds(
    gpu: Gpu, dtype: str, in_a_loop: bool, compute_s: NDArray[np.float64], bytes_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Without the floor; `compute_s` at the sustained clock, which short products in a loop exceed."""
    sustained_s = rounded_maximum(compute_s, bytes_s)
    if not in_a_loop:
        return sustained_s
    gain = loop_clock_hz(gpu, dtype, sustained_s) / sustained_clock_hz(gpu, dtype)
    return rounded_maximum(compute_s / gain, bytes_s)


def _constants(gpu: Gpu, dtype: str) -> SimtConstants:
    constants = gpu.calibration.gemm[dtype]
    assert isinstance(constants, SimtConstants)
    return constants


def _fastest(
    gpu: Gpu,
    dtype: str,
    model: SimtModel,
    kernels: tuple[SimtKernel, ...],
    splits: tuple[int, ...],
    b: ArrayLike,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    in_a_loop: bool = False,
) -> _Work:
    b, m, n, k = (np.asarray(size, dtype=np.float64) for size in np.broadcast_arrays(b, m, n, k))
    constants = _constants(gpu, dtype)
    cycle_s = 1 / (sustained_clock_hz(gpu, dtype) * constants.compute_fraction)
    byte_s = 1 / (gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction)
    lanes = gpu.dense_flops_per_s[dtype] / (2 * gpu.sms * gpu.boost_hz)
    lanes *= ISSUE_SHARE.get(gpu.compute_capability, 1.0)
    moved = BYTES_PER_ELEMENT[dtype] * b * (m * k + n * k + m * n)
    best = _Work(np.full(m.shape, np.inf), np.zeros(m.shape))
    fastest = best.compute_s
    for split in splits:
        depth = np.ceil(k / split)
        partial = PARTIAL_SUM_BYTES * split * b * m * n if split > 1 else 0.0
        bytes_s = byte_s * (moved + partial)
        for kernel in kernels:
            tiles = np.ceil(n / kernel.outputs) * np.ceil(m / kernel.rows) * b * split
            per_sm = np.ceil(tiles / gpu.sms)
            warps = kernel.warps * np.minimum(per_sm, kernel.resident)
            step = kernel.outputs * kernel.rows / (lanes * model.efficiency[kernel.kind])
            cycles = per_sm * depth * step * (1 + model.latency_warps / warps)
            cycles += model.prologue_cycles * np.ceil(per_sm / kernel.resident)
            compute_s = cycles * cycle_s
            seconds = _busy_seconds(gpu, dtype, in_a_loop, compute_s, bytes_s)
            wins = seconds < fastest
            fastest = np.where(wins, seconds, fastest)
            best = _Work(np.where(wins, compute_s, best.compute_s), np.where(wins, bytes_s, best.bytes_s))
    return best
