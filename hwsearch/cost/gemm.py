"""Seconds of one matrix product on a GPU: the best of the tiles and split-K that cuBLAS may choose.

For every variant (tm x tn tile, split-K s), with A = tm tn / (tm + tn):

    waves     = ceil(ceil(m / tm) ceil(n / tn) s / SMs)
    tile_s    = 2 tm tn ceil(k / s) / (dense rate / SMs x compute_fraction x A / (A + feed_kappa))
    compute_s = waves (tile_overhead + tile_s)
    bytes_s   = bytes of both operands and the result / (bandwidth x bandwidth_fraction)
    partial_s = 8 m n s bytes / the same rate, if s > 1: partial sums are written and read in fp32
    seconds   = floor + (compute_s^4 + bytes_s^4)^(1/4) + partial_s

and the fastest variant wins. A / (A + kappa) is the operand feed: a tile of tm x tn loads tm + tn
elements for tm tn products, so small tiles starve the tensor cores. The fourth powers are a maximum
with a rounded corner: compute and traffic of nearly equal length get in each other's way. A faster
rate for operands that fit into L2 did not help. Numbers: results/fit_constants.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.gpu.calibration import GemmConstants
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64))
SPLITS = (1, 2, 4, 8)
PARTIAL_SUM_BYTES = 8


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
    return _cheapest(gpu, dtype, m, n, k).seconds


def gemm_plan(gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> GemmPlan:
    """The price of `gemm_seconds` with the variant behind it; arguments as there."""
    best = _cheapest(gpu, dtype, m, n, k)
    tile_m, tile_n = np.array(TILES, dtype=np.int64).T[:, best.tile]
    split_k = np.array(SPLITS, dtype=np.int64)[best.split]
    tiles = -(-np.asarray(m) // tile_m) * -(-np.asarray(n) // tile_n) * split_k
    waves = -(-tiles // gpu.sms)
    return GemmPlan(
        best.seconds, tile_m, tile_n, split_k, waves, tiles / (waves * gpu.sms), best.bytes_s > best.compute_s
    )


@dataclass(frozen=True)
class _Best:
    """The cheapest variant: seconds in all, of its tiles and of its bytes; indices into TILES and SPLITS."""

    seconds: NDArray[np.float64]
    compute_s: NDArray[np.float64]
    bytes_s: NDArray[np.float64]
    tile: NDArray[np.int64]
    split: NDArray[np.int64]


def _cheapest(gpu: Gpu, dtype: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> _Best:
    gpu.check_dtype(dtype)
    constants = gpu.calibration.gemm[dtype]
    m, n, k = (np.asarray(size, dtype=np.float64) for size in np.broadcast_arrays(m, n, k))
    byte_s = 1 / (gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction)
    bytes_s = byte_s * BYTES_PER_ELEMENT[dtype] * (m * k + n * k + m * n)
    grids = [np.ceil(m / tm) * np.ceil(n / tn) for tm, tn in TILES]
    best: _Best | None = None
    for split_index, split in enumerate(SPLITS):
        compute_s, tile = _fastest_tile(gpu, dtype, constants, grids, np.ceil(k / split), split)
        seconds = constants.floor_s + _rounded_maximum(compute_s, bytes_s)
        if split > 1:
            seconds += byte_s * PARTIAL_SUM_BYTES * split * m * n
        if best is None:
            best = _Best(seconds, compute_s, bytes_s, tile, np.zeros_like(tile))
            continue
        wins = seconds < best.seconds
        best = _Best(
            np.where(wins, seconds, best.seconds),
            np.where(wins, compute_s, best.compute_s),
            bytes_s,
            np.where(wins, tile, best.tile),
            np.where(wins, split_index, best.split),
        )
    assert best is not None
    return best


def _fastest_tile(
    gpu: Gpu,
    dtype: str,
    constants: GemmConstants,
    grids: list[NDArray[np.float64]],
    depth: NDArray[np.float64],
    split: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds of all waves with the best tile, and its index; `grids` holds tiles of one split, by tile."""
    sm_rate = gpu.dense_flops_per_s[dtype] / gpu.sms * constants.compute_fraction
    fastest = np.full(depth.shape, np.inf)
    winner = np.zeros(depth.shape, dtype=np.int64)
    for index, ((tm, tn), grid) in enumerate(zip(TILES, grids, strict=True)):
        feed = tm * tn / (tm + tn)
        step_s = 2 * tm * tn / (sm_rate * feed / (feed + constants.feed_kappa))
        compute_s = np.ceil(grid * (split / gpu.sms)) * (constants.tile_overhead_s + depth * step_s)
        winner = np.where(compute_s < fastest, index, winner)
        fastest = np.minimum(fastest, compute_s)
    return fastest, winner


def _rounded_maximum(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    larger = np.maximum(a, b)
    ratio = np.minimum(a, b) / larger
    ratio *= ratio
    # The fourth root of 1 + ratio^4: squares and square roots are much faster than general powers.
    return np.asarray(larger * np.sqrt(np.sqrt(1 + ratio * ratio)))
