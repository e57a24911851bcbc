"""Seconds of flash attention over packed sequences, by the score tiles that the window keeps.

A thread block takes `query_tile` queries of one head and walks the key tiles that any of them sees:

    block_s = block_overhead + visited key tiles x query_tile key_tile x
              (4 head_size / (dense rate / SMs x compute_fraction) + 1 / (16 clock exponential_fraction))
    seconds = floor + max(waves x mean block_s, longest block_s, bytes / (bandwidth x bandwidth_fraction))

16 is the count of exponentials per clock and SM (special function units, CUDA Programming Guide,
arithmetic throughput); waves = ceil(blocks / SMs). Form and numbers: results/fit_constants.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.errors import HwsearchError
from hwsearch.gpu.calibration import AttentionConstants
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

EXPONENTIALS_PER_CLOCK = 16
# Backward over forward time. Backward counts 2.5 forward FLOPs and runs at a lower rate; the median of
# 2.5 x forward rate / backward rate over head sizes 64 and 128, lengths 512 to 16k, FA2 and FA3 on an
# H100 (2.6 to 3.7), as charted by FlashAttention-3: https://arxiv.org/abs/2407.08608, figures 5 and 6.
BACKWARD_FACTOR = 2.9


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
) -> NDArray[np.float64]:
    """Device time of one layer's forward attention, without the CPU's launch.

    Args:
        lengths, counts: int [L]: distinct sequence lengths in tokens, and how often each occurs.
        num_heads, head_size, window, key_value_heads: ints or int arrays that broadcast to [S]; one
            element per shape. `window` keeps keys with |i - j| <= window, None or negative keeps all;
            `key_value_heads` defaults to `num_heads`.
        causal: keep only keys at or before the query.

    Returns:
        float64 seconds in the broadcast shape of the shape arguments.
    """
    gpu.check_dtype(dtype)
    constants = gpu.calibration.attention[dtype]
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
    tiles = _tiles_by_window(constants.query_tile, constants.key_tile, lengths, counts, windows, causal)
    tokens = int((lengths * counts).sum())
    moved = BYTES_PER_ELEMENT[dtype] * 2 * tokens * (heads + kv_heads) * size
    return seconds_of_tiles(gpu, dtype, constants, *tiles, heads, size, moved)


def seconds_of_tiles(
    gpu: Gpu,
    dtype: str,
    constants: AttentionConstants,
    blocks: NDArray[np.int64] | NDArray[np.float64],
    visited: NDArray[np.int64] | NDArray[np.float64],
    longest: NDArray[np.int64] | NDArray[np.float64],
    heads: NDArray[np.int64],
    head_size: NDArray[np.int64],
    bytes_moved: NDArray[np.int64] | NDArray[np.float64],
) -> NDArray[np.float64]:
    """The formula at the top, for `blocks` and `visited` tiles per head, `longest` tiles in one block."""
    sm_rate = gpu.dense_flops_per_s[dtype] / gpu.sms * constants.compute_fraction
    exp_rate = EXPONENTIALS_PER_CLOCK * gpu.boost_hz * constants.exponential_fraction
    key_tile_s = constants.query_tile * constants.key_tile * (4 * head_size / sm_rate + 1 / exp_rate)
    mean_block_s = constants.block_overhead_s + visited / np.maximum(blocks, 1) * key_tile_s
    longest_s = (constants.block_overhead_s + longest * key_tile_s) * (blocks > 0)
    compute_s = np.maximum(np.ceil(blocks * heads / gpu.sms) * mean_block_s, longest_s)
    bytes_s = bytes_moved / (gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction)
    return np.asarray(constants.floor_s + np.maximum(compute_s, bytes_s))


def _tiles_by_window(
    query_tile: int,
    key_tile: int,
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    windows: NDArray[np.int64],
    causal: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Per window: blocks and visited tiles of one head over all sequences, and the longest block's tiles."""
    distinct, place = np.unique(windows, return_inverse=True)
    rows = [visited_tiles(query_tile, key_tile, lengths, counts, int(w), causal) for w in distinct]
    table = np.array(rows, dtype=np.int64)[place.reshape(windows.shape)]
    return table[..., 0], table[..., 1], table[..., 2]


def visited_tiles(
    query_tile: int,
    key_tile: int,
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    window: int,
    causal: bool,
) -> tuple[int, int, int]:
    """Blocks and visited score tiles of one head over all sequences, and the most tiles in one block."""
    kept = (lengths > 0) & (counts > 0)
    lengths, counts = lengths[kept], counts[kept]
    if lengths.size == 0:
        return 0, 0, 0
    blocks = -(-lengths // query_tile)
    # One entry per query tile of each distinct length.
    of_length = np.repeat(np.arange(lengths.size), blocks)
    tile = np.arange(of_length.size) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    last = lengths[of_length] - 1
    first_query = tile * query_tile
    last_query = np.minimum(first_query + query_tile - 1, last)
    first_key = np.zeros_like(first_query) if window < 0 else np.maximum(first_query - window, 0)
    last_key = last if window < 0 else np.minimum(last_query + window, last)
    if causal:
        last_key = np.minimum(last_key, last_query)
    visited = last_key // key_tile - first_key // key_tile + 1
    return int((blocks * counts).sum()), int((visited * counts[of_length]).sum()), int(visited.max())
