"""Which score tiles a fused attention kernel visits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
