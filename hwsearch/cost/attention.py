"""Seconds of attention: fused kernels by the score tiles that they visit, `math` by its parts.

A thread block of a fused kernel takes a tile of queries of one head and walks the key tiles that any of
them sees. With the rate of products at the clock that the power limit allows (hwsearch.gpu.power):

    tile_s    = queries x keys x (4 padded head size / (dense rate / SMs x compute_fraction)
                + 1 / (16 clock x exponential_fraction))
    block_s   = overhead + visited tiles x tile_s
    waves     = blocks of all heads / SMs, wave_rounding of the way up to a whole number, at least 1
    compute_s = max(waves x mean block_s + half of (longest - mean) block_s beyond one wave, longest block_s)
    seconds   = floor + max(compute_s, traffic_s) + extra_passes x traffic_s

16 is the count of exponentials per clock and SM (special function units, CUDA Programming Guide,
arithmetic throughput). traffic_s moves queries, keys, values and output once (hwsearch.cost.traffic);
extra_passes is what the library moves around the kernel, in units of that. Triton's block order lets
all heads run side by side, so that keys and values beyond L2 are read again for every query tile.
Numbers: results/fit_attention.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.attention_tiles import visited_tiles
from hwsearch.cost.math_attention import math_attention_seconds
from hwsearch.cost.traffic import USABLE_L2_SHARE, miss_share, traffic_seconds
from hwsearch.errors import HwsearchError
from hwsearch.gpu.attention_constants import attention_constants
from hwsearch.gpu.attention_kernels import choose_kernel, tile_of
from hwsearch.gpu.calibration import AttentionConstants
from hwsearch.gpu.power import halves_fp32_sums, sustained_clock_hz
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

EXPONENTIALS_PER_CLOCK = 16
# Backward over forward time. Backward counts 2.5 forward FLOPs and runs at a lower rate; the median of
# 2.5 x forward rate / backward rate over head sizes 64 and 128, lengths 512 to 16k, FA2 and FA3 on an
# H100 (2.6 to 3.7), as charted by FlashAttention-3: https://arxiv.org/abs/2407.08608, figures 5 and 6.
BACKWARD_FACTOR = 2.9
# Prefill in a serving engine also writes keys and values into a paged cache: one more kernel, and half of
# the attention's bytes again, which take longer as pages scatter. From a joint fit of all tables
# (3800 to 4200 cycles, 1.16 to 1.25 passes, by variant of the model).
PREFILL_CYCLES, PREFILL_PASSES, PREFILL_FOOTPRINT = 3850.0, 1.16, 1.5

# GeForce cards halve the tensor rate with fp32 sums: 512 FLOPs per clock and SM in 16 bit, not 1024. FA2 on
# an RTX 4090 reaches its dense rate, 165 TFLOP/s, at a clock some 8 % above the rated boost
# (SageAttention, arXiv 2410.02367; from memory).
HIGHEST_FRACTION = 0.93

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What a fused kernel does for each element: arrays of one shape, or that broadcast.

    `blocks`, `visited` tiles per head over all sequences, `longest` tiles in one block; `query_tile`,
    `key_tile`, `padded` the tile and the padded head size; `heads`; `query_bytes` and `key_bytes` of queries
    with outputs and of keys with values, moved once; `pair_bytes` of one key and its value.
    """

    blocks: Ints
    visited: Ints
    longest: Ints
    query_tile: Ints
    key_tile: Ints
    padded: Ints
    heads: Ints
    query_bytes: Floats
    key_bytes: Floats
    pair_bytes: Floats


def attention_seconds(
    gpu: Gpu,
    dtype: str,
    lengths: ArrayLike,
    counts: ArrayLike,
    num_heads: ArrayLike,
    head_size: ArrayLike,
    window: ArrayLike | None = None,
    causal: bool = False,
    key_value_heads: ArrayLike | None = None,
    kernel: str | None = None,
) -> Floats:
    """Device time of one layer's forward attention, without the CPU's launch.

    Args:
        lengths, counts: int [L]: distinct sequence lengths in tokens, and how often each occurs.
        num_heads, head_size, window, key_value_heads: ints or int arrays that broadcast to [S]; one
            element per shape. `window` keeps keys with |i - j| <= window, None or negative keeps all;
            `key_value_heads` defaults to `num_heads`.
        causal: keep only keys at or before the query.
        kernel: one of hwsearch.gpu.attention_kernels.KERNELS; None is the best that the GPU runs.

    Returns:
        float64 seconds in the broadcast shape of the shape arguments.
    """
    gpu.check_dtype(dtype)
    kernel = choose_kernel(gpu, dtype, kernel)
    lengths, counts = np.asarray(lengths, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or lengths.shape != counts.shape:
        raise HwsearchError(
            f"attention: lengths and counts must be lists of one size, not {lengths.shape} and {counts.shape}"
        )
    heads, size, windows, kv_heads = (
        np.asarray(a, dtype=np.int64)
        for a in np.broadcast_arrays(
            num_heads,
            head_size,
            -1 if window is None else window,
            num_heads if key_value_heads is None else key_value_heads,
        )
    )
    if kernel == "math":
        shape = (-1,) + (1,) * heads.ndim
        each = math_attention_seconds(gpu, dtype, counts.reshape(shape), lengths.reshape(shape), heads, size)
        return np.asarray(each.sum(axis=0))
    tiles = _tiles_by_head(gpu, kernel, size, windows, causal)
    table, place = _distinct(windows, *tiles[:2])
    rows = [
        visited_tiles(query_tile, key_tile, lengths, counts, w, causal) for w, query_tile, key_tile in table
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    pair_bytes = np.asarray(BYTES_PER_ELEMENT[dtype] * 2.0 * size, dtype=np.float64)
    moved = pair_bytes * int((lengths * counts).sum())
    work = Work(
        columns[place, 0],
        columns[place, 1],
        columns[place, 2],
        *tiles,
        heads,
        moved * heads,
        moved * kv_heads,
        pair_bytes,
    )
    return fused_seconds(gpu, dtype, attention_constants(gpu, dtype, kernel), work)


def attention_rows_seconds(
    gpu: Gpu,
    dtype: str,
    batch_size: ArrayLike,
    seq_len: ArrayLike,
    num_heads: ArrayLike,
    head_dim: ArrayLike,
    window: ArrayLike | None = None,
    causal: bool = False,
    kernel: str | None = None,
    prefill: ArrayLike = False,
) -> Floats:
    """The same for rows of a table: each its own `batch_size` sequences of `seq_len` tokens.

    `prefill`, a bool or bools like the sizes, adds what a serving engine does around causal attention: keys
    and values go into a paged cache.
    All sizes are ints that broadcast to [N]; returns float64 seconds [N].
    """
    gpu.check_dtype(dtype)
    kernel = choose_kernel(gpu, dtype, kernel)
    batch, length, heads, size, windows = (
        np.asarray(a, dtype=np.int64)
        for a in np.broadcast_arrays(
            batch_size, seq_len, num_heads, head_dim, -1 if window is None else window
        )
    )
    if kernel == "math":
        return math_attention_seconds(gpu, dtype, batch, length, heads, size)
    work = row_work(gpu, dtype, kernel, batch, length, heads, size, windows, causal)
    return fused_seconds(gpu, dtype, attention_constants(gpu, dtype, kernel), work, prefill)


def row_work(
    gpu: Gpu,
    dtype: str,
    kernel: str,
    batch: Ints,
    length: Ints,
    heads: Ints,
    size: Ints,
    windows: Ints,
    causal: bool,
) -> Work:
    """What the rows of `attention_rows_seconds` ask of a fused kernel; all arrays of one shape."""
    tiles = _tiles_by_head(gpu, kernel, size, windows, causal)
    table, place = _distinct(length, windows, *tiles[:2])
    one = np.ones(1, dtype=np.int64)
    rows = [visited_tiles(q, k, one * s, one, w, causal) for s, w, q, k in table]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    blocks, visited = batch * columns[place, 0], batch * columns[place, 1]
    pair_bytes = np.asarray(BYTES_PER_ELEMENT[dtype] * 2.0 * size, dtype=np.float64)
    moved = pair_bytes * batch * length * heads
    return Work(blocks, visited, columns[place, 2], *tiles, heads, moved, moved, pair_bytes)


def fused_seconds(
    gpu: Gpu, dtype: str, constants: AttentionConstants, work: Work, prefill: ArrayLike = False
) -> Floats:
    """The formula at the top; `prefill` as in `attention_rows_seconds`."""
    clock_share = sustained_clock_hz(gpu, dtype) / gpu.boost_hz
    fraction = products_fraction(gpu, dtype, constants)
    if constants.kernel == "engine":
        # Its share is of the rate at boost clock: tensor cores that wait so much leave power for it.
        fraction = min(fraction / clock_share, HIGHEST_FRACTION)
    sm_rate = gpu.dense_flops_per_s[dtype] / gpu.sms * clock_share * fraction
    exp_rate = EXPONENTIALS_PER_CLOCK * gpu.boost_hz * clock_share * constants.exponential_fraction
    tile_s = work.query_tile * work.key_tile * (4 * work.padded / sm_rate + 1 / exp_rate)
    overhead_s = constants.block_overhead_cycles / gpu.boost_hz
    mean_s = overhead_s + work.visited / np.maximum(work.blocks, 1) * tile_s
    longest_s = (overhead_s + work.longest * tile_s) * (work.blocks > 0)
    waves = work.blocks * work.heads / gpu.sms
    tail_s = 0.5 * np.maximum(longest_s - mean_s, 0) * (waves > 1)
    waves = np.maximum(1, waves + constants.wave_rounding * (np.ceil(waves) - waves)) * (work.blocks > 0)
    compute_s = np.maximum(waves * mean_s + tail_s, longest_s)

    moved = work.query_bytes + work.key_bytes
    footprint = moved * np.where(prefill, PREFILL_FOOTPRINT, 1.0)
    once_s = traffic_seconds(gpu, moved, footprint, constants.bytes_per_cycle)
    again_s = _rereading_seconds(gpu, constants, work)
    passes = constants.extra_passes + np.where(prefill, PREFILL_PASSES, 0.0)
    cycles = constants.floor_cycles + np.where(prefill, PREFILL_CYCLES, 0.0)
    return np.asarray(cycles / gpu.boost_hz + np.maximum(compute_s, once_s + again_s) + passes * once_s)


def products_fraction(gpu: Gpu, dtype: str, constants: AttentionConstants) -> float:
    """`compute_fraction`, or twice that where the chip multiplies at half its rate with fp32 sums: what
    keeps the tensor cores waiting on full-rate cards takes as long there, so they wait less."""
    if halves_fp32_sums(gpu, dtype):
        return max(constants.compute_fraction, min(2 * constants.compute_fraction, HIGHEST_FRACTION))
    return constants.compute_fraction


def _rereading_seconds(gpu: Gpu, constants: AttentionConstants, work: Work) -> Floats | float:
    """Keys and values that Triton's order of blocks reads from memory again for each query tile."""
    if constants.kernel != "triton":
        return 0.0
    read = work.visited * work.key_tile * work.heads * work.pair_bytes
    again = np.maximum(read - work.key_bytes, 0) * miss_share(work.key_bytes, USABLE_L2_SHARE * gpu.l2_bytes)
    return np.asarray(again / (gpu.bandwidth_bytes_per_s * gpu.calibration.stream.bandwidth_fraction))


def _tiles_by_head(gpu: Gpu, kernel: str, size: Ints, windows: Ints, causal: bool) -> tuple[Ints, Ints, Ints]:
    """Query tile, key tile and padded head size of every element."""
    table, place = _distinct(size, (windows >= 0).astype(np.int64))
    tiles = [tile_of(kernel, gpu.compute_capability, d, causal, bool(local)) for d, local in table]
    columns = np.array([(t.queries, t.keys, t.head_size) for t in tiles], dtype=np.int64).reshape(-1, 3)
    return columns[place, 0], columns[place, 1], columns[place, 2]


def _distinct(*columns: Ints) -> tuple[list[tuple[int, ...]], NDArray[np.intp]]:
    """The distinct combinations of values in arrays of one shape, and the place of each element's own."""
    key = np.zeros(columns[0].shape, dtype=np.int64)
    for column in columns:
        _, place = np.unique(column, return_inverse=True)
        place = place.reshape(column.shape)
        # Renumbered at every step, so that the key stays small however wide the values are.
        _, key = np.unique(key * (int(place.max(initial=0)) + 1) + place, return_inverse=True)
        key = key.reshape(column.shape)
    _, first = np.unique(key, return_index=True)
    return list(zip(*(column.flat[first].tolist() for column in columns), strict=True)), key
