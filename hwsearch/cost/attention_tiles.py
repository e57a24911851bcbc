"""Which score tiles a fused attention kernel visits."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Stretches:
    """Blocks of one head over all sequences, and how they walk the other side in steps of a tile.

    `before`, `full`, `after`: steps that need a mask at the window's near edge, none, and one at the end, in
    all blocks together; `starts` counts, for each of the three, the blocks that take any such step. `longest`
    is the most steps of one block.
    """

    blocks: int
    before: int
    full: int
    after: int
    starts: tuple[int, int, int]
    longest: int

    @property
    def steps(self) -> int:
        return self.before + self.full + self.after


def stretches(
    rows: int, columns: int, lengths: NDArray[np.int64], counts: NDArray[np.int64], window: int
) -> Stretches:
    """As hwsearch's own kernels walk (`other_side` in kernels/src/triton_attention/tiles.py): from the first
    position in sight on, not from a multiple of `columns` as `visited_tiles` has it. No causal mask."""
    kept = (lengths > 0) & (counts > 0)
    lengths, counts = lengths[kept], counts[kept]
    if lengths.size == 0:
        return Stretches(0, 0, 0, 0, (0, 0, 0), 0)
    blocks = -(-lengths // rows)
    of_length = np.repeat(np.arange(lengths.size), blocks)
    weight, length = counts[of_length], lengths[of_length]
    first = (np.arange(of_length.size) - np.repeat(np.cumsum(blocks) - blocks, blocks)) * rows
    last = first + rows - 1
    start, stop = np.zeros_like(first), length
    all_from, all_to = np.zeros_like(first), length - 1
    if window >= 0:
        start = np.maximum(0, first - window)
        stop = np.minimum(length, last + 1 + window)
        all_from, all_to = last - window, np.minimum(first + window, length - 1)
    full_start = start + -(-np.maximum(all_from - start, 0) // columns) * columns
    full_stop = start + np.maximum(all_to + 1 - start, 0) // columns * columns
    full_start = np.minimum(full_start, stop)
    full_stop = np.maximum(full_start, full_stop)
    parts = [-(-(full_start - start) // columns), (full_stop - full_start) // columns]
    parts.append(-(-np.maximum(stop - full_stop, 0) // columns))
    before, full, after = (int((part * weight).sum()) for part in parts)
    starts = tuple(int(((part > 0) * weight).sum()) for part in parts)
    longest = int(np.sum(parts, axis=0).max())
    return Stretches(
        int((blocks * counts).sum()), before, full, after, (starts[0], starts[1], starts[2]), longest
    )
