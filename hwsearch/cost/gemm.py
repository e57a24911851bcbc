"""Seconds of one matrix product, or a batch of them: the best of the variants that cuBLAS may choose.

On tensor cores, for every variant (tm x tn tile, split-K s), with depth = 32 ceil(k / 32 s):

    waves      = ceil(batch ceil(m / tm) ceil(n / tn) s / SMs)
    overhead   = block_overhead + tile_overhead tm tn / 128^2
    issue_s    = waves (overhead + 2 tm tn depth / (dense rate / SMs x compute_fraction))
    latency_s  = ceil(waves / 2) (overhead + step_latency depth / 64)
    power_s    = FLOPs of all tiles, padding included / (dense rate x sustained_fraction)
    bytes_s    = bytes of operands and results / (bandwidth x bandwidth_fraction), cached_speedup times
                 faster where L2 holds them
    seconds    = floor + (max(issue_s, latency_s, power_s)^4 + bytes_s^4)^(1/4) + what split-K costs

and the fastest variant wins. Two blocks share an SM, so one hides the other's latency. The fourth powers
are a maximum with a rounded corner: compute and traffic of nearly equal length get in each other's way.
A split costs a second kernel and its partial sums, written and read in fp32 within L2. fp32 without TF32
runs on other units: hwsearch.cost.gemm_simt. Designs compared and numbers: docs/cost-model.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.gemm_plan import GemmPlan, name_bounds
from hwsearch.cost.gemm_simt import PARTIAL_SUM_BYTES, sgemm_batched_seconds, sgemm_plan, sgemm_seconds
from hwsearch.cost.rounded import rounded_maximum
from hwsearch.gpu.calibration import GemmConstants, SimtConstants
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

TILES = (
    *((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64)),
    *((64, 32), (32, 64), (32, 32), (64, 16), (16, 64), (8, 64)),
)
SPLITS = (1, 2, 4, 8, 16)
# Elements of k that a block loads at once, and of which its latency is counted.
DEPTH_QUANTUM, LATENCY_DEPTH = 32, 64
# A layer's weights come back after those of this many layers; so were the fitted tables timed, to judge by
# where the products with few rows leave the L2 of an L40S (weights between 15 and 17 MB).
WEIGHT_SETS = 6
# L2 holds a footprint of this share of its size, and loses it over a few tens of percent.
CACHED_SHARE, CACHE_STEEPNESS = 0.9, 8


def gemm_seconds(
    gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike, in_a_loop: bool = False
) -> NDArray[np.float64]:
    """Device time of y[m, n] = x[m, k] w[n, k]^T, without the CPU's launch.

    Args:
        gpu: with constants for `dtype`.
        dtype: of x, w and y: bf16, fp16, tf32 or fp32; HwsearchError for one that the GPU lacks.
        m, n, k: positive integers that broadcast together.
        in_a_loop: timed alone and over and over, as tables of operators are: short fp32 products then
            run above the clock that the power limit allows in the long run.

    Returns:
        float64 seconds in the broadcast shape.
    """
    if isinstance(_constants(gpu, dtype), SimtConstants):
        return sgemm_seconds(gpu, dtype, m, n, k, in_a_loop)
    return _cheapest(gpu, dtype, 1, m, n, k, WEIGHT_SETS).seconds


def bmm_seconds(
    gpu: Gpu,
    dtype: str,
    batch: ArrayLike,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    in_a_loop: bool = False,
) -> NDArray[np.float64]:
    """Device time of `batch` products y[m, n] = x[m, k] w[k, n] in one kernel; see `gemm_seconds`."""
    if isinstance(_constants(gpu, dtype), SimtConstants):
        return sgemm_batched_seconds(gpu, dtype, batch, m, n, k, in_a_loop)
    return _cheapest(gpu, dtype, batch, m, n, k, 1).seconds


def gemm_plan(gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> GemmPlan:
    """The price of `gemm_seconds` with the variant behind it; arguments as there."""
    constants = _constants(gpu, dtype)
    if isinstance(constants, SimtConstants):
        return sgemm_plan(gpu, dtype, m, n, k)
    best = _cheapest(gpu, dtype, 1, m, n, k, WEIGHT_SETS)
    m, n, k = np.asarray(m), np.asarray(n), np.asarray(k)
    tile_m, tile_n = np.array(TILES, dtype=np.int64).T[:, best.tile]
    split_k = np.array(SPLITS, dtype=np.int64)[best.split]
    grid = -(-m // tile_m) * -(-n // tile_n)
    waves = -(-grid * split_k // gpu.sms)
    area, depth = tile_m * tile_n, _depth(k, split_k)
    latency_s = constants.step_latency_s / LATENCY_DEPTH * depth
    times = _times(gpu, dtype, constants, area, grid, split_k, depth, latency_s)
    terms = np.array([*times, best.bytes_s])
    overheads_s = _overhead_s(constants, area) * np.array([waves, -(-waves // 2), 0 * waves, 0 * waves])
    longest = terms.argmax(axis=0)
    useful_s = np.take_along_axis(terms - overheads_s, longest[np.newaxis], axis=0)[0]
    return GemmPlan(
        best.seconds,
        tile_m,
        tile_n,
        split_k,
        waves,
        tail_utilisation=grid * split_k / (waves * gpu.sms),
        tile_utilisation=m * n / (grid * tile_m * tile_n),
        bound=name_bounds(longest, useful_s, best.seconds),
    )


def _constants(gpu: Gpu, dtype: str) -> GemmConstants | SimtConstants:
    gpu.check_dtype(dtype)
    return gpu.calibration.gemm[dtype]


@dataclass(frozen=True)
class _Best:
    """The cheapest variant: its seconds in all and of its bytes, and its indices into TILES and SPLITS."""

    seconds: NDArray[np.float64]
    bytes_s: NDArray[np.float64]
    tile: NDArray[np.int64]
    split: NDArray[np.int64]


def _cheapest(
    gpu: Gpu, dtype: str, batch: ArrayLike, m: ArrayLike, n: ArrayLike, k: ArrayLike, weight_sets: int
) -> _Best:
    constants = _constants(gpu, dtype)
    assert isinstance(constants, GemmConstants)
    batch, m, n, k = (np.asarray(a, dtype=np.float64) for a in np.broadcast_arrays(batch, m, n, k))
    cold_rate = gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction
    cached_rate = cold_rate * constants.cached_speedup
    bytes_s = _bytes_seconds(gpu, dtype, batch, m, n, k, weight_sets, cold_rate, cached_rate)
    grids = [batch * np.ceil(m / tm) * np.ceil(n / tn) for tm, tn in TILES]
    best = _Best(np.full(m.shape, np.inf), bytes_s, np.zeros(m.shape, int), np.zeros(m.shape, int))
    for index, split in enumerate(SPLITS):
        compute_s, tile = _fastest_tile(gpu, dtype, constants, grids, k, split)
        seconds = constants.floor_s + rounded_maximum(compute_s, bytes_s)
        if split > 1:
            seconds += constants.split_s + PARTIAL_SUM_BYTES * split / cached_rate * batch * m * n
        wins = seconds < best.seconds
        best = _Best(
            np.where(wins, seconds, best.seconds),
            bytes_s,
            np.where(wins, tile, best.tile),
            np.where(wins, index, best.split),
        )
    return best


def _bytes_seconds(
    gpu: Gpu,
    dtype: str,
    batch: NDArray[np.float64],
    m: NDArray[np.float64],
    n: NDArray[np.float64],
    k: NDArray[np.float64],
    weight_sets: int,
    cold_rate: float,
    cached_rate: float,
) -> NDArray[np.float64]:
    weights = BYTES_PER_ELEMENT[dtype] * batch * n * k
    activations = BYTES_PER_ELEMENT[dtype] * batch * m * (k + n)
    crowding = (activations + weight_sets * weights) / (CACHED_SHARE * gpu.l2_bytes)
    cached = 1 / (1 + crowding**CACHE_STEEPNESS)
    return np.asarray((activations + weights) * (cached / cached_rate + (1 - cached) / cold_rate))


def _fastest_tile(
    gpu: Gpu,
    dtype: str,
    constants: GemmConstants,
    grids: list[NDArray[np.float64]],
    k: NDArray[np.float64],
    split: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds of all waves with the best tile, and its index; `grids` holds tiles of one split, by tile."""
    depth = _depth(k, split)
    latency_s = constants.step_latency_s / LATENCY_DEPTH * depth
    fastest = np.full(k.shape, np.inf)
    winner = np.zeros(k.shape, dtype=np.int64)
    for index, ((tm, tn), grid) in enumerate(zip(TILES, grids, strict=True)):
        times = _times(gpu, dtype, constants, tm * tn, grid, split, depth, latency_s)
        compute_s = np.maximum(np.maximum(times[0], times[1]), times[2])
        winner = np.where(compute_s < fastest, index, winner)
        fastest = np.minimum(fastest, compute_s)
    return fastest, winner


def _times(
    gpu: Gpu,
    dtype: str,
    constants: GemmConstants,
    area: int | NDArray[np.int64],
    grid: NDArray[np.float64],
    split: int | NDArray[np.int64],
    depth: NDArray[np.float64],
    latency_s: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """issue_s, latency_s and power_s of `grid` tiles of `area`, each in `split` parts of `depth`."""
    sm_rate = gpu.dense_flops_per_s[dtype] / gpu.sms * constants.compute_fraction
    all_sms_rate = gpu.dense_flops_per_s[dtype] * constants.sustained_fraction
    overhead_s = _overhead_s(constants, area)
    tile_flops = 2 * area * depth
    waves = np.ceil(grid * (split / gpu.sms))
    return (
        waves * (overhead_s + tile_flops / sm_rate),
        np.ceil(waves / 2) * (overhead_s + latency_s),
        grid * (split / all_sms_rate) * tile_flops,
    )


def _overhead_s(constants: GemmConstants, area: int | NDArray[np.int64]) -> float | NDArray[np.float64]:
    """Of one wave of tiles."""
    return constants.block_overhead_s + constants.tile_overhead_s * (area / 128**2)


def _depth(k: NDArray[np.float64], split: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Elements of k in one part, as blocks load them."""
    return DEPTH_QUANTUM * np.ceil(k / (DEPTH_QUANTUM * split))
