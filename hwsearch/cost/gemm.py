"""Seconds of one matrix product on a GPU: the best of the tiles and split-K that cuBLAS may choose.

For every variant (tm x tn tile, split-K s), with A = tm tn / (tm + tn):

    waves     = ceil(ceil(m / tm) ceil(n / tn) s / SMs)
    tile_s    = 2 tm tn ceil(k / s) / (dense rate / SMs x compute_fraction x A / (A + feed_kappa))
    seconds   = floor + max(waves (tile_overhead + tile_s), bytes / (bandwidth x bandwidth_fraction))

and the fastest variant wins. A / (A + kappa) is the operand feed: a tile of tm x tn loads tm + tn
elements for tm tn products, so small tiles starve the tensor cores. Operands and result that fit into
CACHED_SHARE of L2 move CACHED_SPEEDUP times faster. Form and numbers: results/fit_constants.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.gpu.calibration import GemmConstants
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64))
SPLITS = (1, 2, 4, 8)
VARIANTS = tuple((tm, tn, split) for split in SPLITS for tm, tn in TILES)
CACHED_SHARE = 0.8
CACHED_SPEEDUP = 3.0


@dataclass(frozen=True)
class GemmPlan:
    """Which variant was priced as the fastest; arrays share the broadcast shape of m, n, k.

    `seconds` float64; `tile_m`, `tile_n`, `split_k`, `waves` int64; `tail_utilisation` is the share of
    the SMs' time that the waves fill with tiles; `memory_bound` where bytes, not products, set the time.
    """

    seconds: NDArray[np.float64]
    tile_m: NDArray[np.int64]
    tile_n: NDArray[np.int64]
    split_k: NDArray[np.int64]
    waves: NDArray[np.int64]
    tail_utilisation: NDArray[np.float64]
    memory_bound: NDArray[np.bool_]


def gemm_seconds(gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Device time of y[m, n] = x[m, k] w[n, k]^T, without the CPU's launch.

    Args:
        gpu: with constants for `dtype`.
        dtype: of x, w and y: bf16, fp16, tf32 or fp32; HwsearchError for one that the GPU lacks.
        m, n, k: positive integers that broadcast together.

    Returns:
        float64 seconds in the broadcast shape.
    """
    return _cheapest(gpu, dtype, m, n, k)[0]


def gemm_plan(gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> GemmPlan:
    """The price of `gemm_seconds` with the variant behind it; arguments as there."""
    seconds, winner, bytes_s = _cheapest(gpu, dtype, m, n, k)
    tile_m, tile_n, split_k = np.array(VARIANTS, dtype=np.int64).T[:, winner]
    tiles = -(-np.asarray(m) // tile_m) * -(-np.asarray(n) // tile_n) * split_k
    waves = -(-tiles // gpu.sms)
    busy_s = seconds - gpu.calibration.gemm[dtype].floor_s
    return GemmPlan(
        seconds,
        tile_m,
        tile_n,
        split_k,
        waves,
        tiles / (waves * gpu.sms),
        np.isclose(busy_s, bytes_s, rtol=1e-9),
    )


def _cheapest(
    gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Seconds, index into VARIANTS and seconds that the bytes alone would take."""
    gpu.check_dtype(dtype)
    constants = gpu.calibration.gemm[dtype]
    m, n, k = (np.asarray(size, dtype=np.float64) for size in np.broadcast_arrays(m, n, k))
    bytes_s = _bytes_seconds(gpu, constants, BYTES_PER_ELEMENT[dtype] * (m * k + n * k + m * n))
    sm_rate = gpu.dense_flops_per_s[dtype] / gpu.sms * constants.compute_fraction
    # Small chunks keep the 32 variants of a chunk in the CPU's cache.
    seconds = np.full(m.shape, np.inf)
    winner = np.zeros(m.shape, dtype=np.int64)
    grids = {(tm, tn): np.ceil(m / tm) * np.ceil(n / tn) for tm, tn in TILES}
    for index, (tm, tn, split) in enumerate(VARIANTS):
        area = tm * tn / (tm + tn)
        flop_s = 2 * tm * tn / (sm_rate * area / (area + constants.feed_kappa))
        depth = np.ceil(k / split) if split > 1 else k
        variant_s = np.ceil(grids[tm, tn] * (split / gpu.sms))
        variant_s *= constants.tile_overhead_s + depth * flop_s
        np.putmask(winner, variant_s < seconds, index)
        np.minimum(seconds, variant_s, out=seconds)
    return constants.floor_s + np.maximum(seconds, bytes_s), winner, bytes_s


def _bytes_seconds(gpu: Gpu, constants: GemmConstants, footprint: NDArray[np.float64]) -> NDArray[np.float64]:
    rate = gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction
    cached = footprint < CACHED_SHARE * gpu.l2_bytes
    return footprint / np.where(cached, CACHED_SPEEDUP * rate, rate)
