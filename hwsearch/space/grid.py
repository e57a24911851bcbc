"""Every combination of sizes that a space file lists, as one table."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from hwsearch.shape.encoder_shape import LARGEST_SIZE
from hwsearch.shape.table import Column, ShapeTable
from hwsearch.space.schema import RatioRange, ShapeSection

# A ratio gives a feed-forward size only up to rounding; tensor cores want multiples of this.
INTERMEDIATE_STEP = 64


def intermediate_sizes(section: ShapeSection, hidden_size: int) -> Sequence[int]:
    """Candidate sizes for one width, ascending; a ratio is 2 * intermediate_size / hidden_size."""
    ratio = section.intermediate_ratio
    if isinstance(ratio, list):
        rounded = {max(1, round(r * hidden_size / 2 / INTERMEDIATE_STEP)) for r in ratio}
        return [size for n in sorted(rounded) if (size := INTERMEDIATE_STEP * n) <= LARGEST_SIZE]
    low, high = (ratio.min, ratio.max) if isinstance(ratio, RatioRange) else (0.0, math.inf)
    if section.intermediate_size is not None:
        sizes = section.intermediate_size
        return sizes[bisect_left(sizes, low * hidden_size / 2) : bisect_right(sizes, high * hidden_size / 2)]
    first = max(1, math.ceil(low * hidden_size / 2 / INTERMEDIATE_STEP))
    last = min(int(high * hidden_size / 2), LARGEST_SIZE) // INTERMEDIATE_STEP
    return range(INTERMEDIATE_STEP * first, INTERMEDIATE_STEP * last + 1, INTERMEDIATE_STEP)


def attention_patterns(section: ShapeSection) -> list[tuple[int, int]]:
    """Pairs (global_attn_every_n_layers, local_attention); all-global ones have no window to vary."""
    return [
        (every, window)
        for every in section.global_attn_every_n_layers
        for window in (section.local_attention if every > 1 else section.local_attention[:1])
    ]


def grid_size(section: ShapeSection) -> int:
    """Number of rows that `enumerate_grid` yields, without building them."""
    heads = np.asarray(section.head_size)
    layers = sum(
        len(intermediate_sizes(section, h)) * int((h % heads == 0).sum()) for h in section.hidden_size
    )
    all_global = section.global_attn_every_n_layers[0] == 1
    patterns = all_global + (len(section.global_attn_every_n_layers) - all_global) * len(
        section.local_attention
    )
    return layers * len(section.num_hidden_layers) * patterns * len(section.vocab_size)


def enumerate_grid(section: ShapeSection) -> ShapeTable:
    """All shapes whose head size divides their width, in a fixed order."""
    layers = np.array(list(_distinct_layers(section)), dtype=np.int64).reshape(-1, 3)
    outer = np.array(
        [
            (depth, every, window, vocab)
            for depth in section.num_hidden_layers
            for every, window in attention_patterns(section)
            for vocab in section.vocab_size
        ],
        dtype=np.int64,
    )
    hidden, heads, intermediate = np.tile(layers, (len(outer), 1)).T
    depth, every, window, vocab = np.repeat(outer, len(layers), axis=0).T
    return shape_table(section, depth, hidden, heads, intermediate, every, window, vocab)


def shape_table(
    section: ShapeSection,
    depth: Column,
    hidden: Column,
    heads: Column,
    intermediate: Column,
    every: Column,
    window: Column,
    vocab: Column,
) -> ShapeTable:
    """Columns of a space's shapes, with what all of them share filled in."""
    return ShapeTable(
        num_hidden_layers=depth,
        hidden_size=hidden,
        num_attention_heads=heads,
        key_value_heads=heads,
        intermediate_size=intermediate,
        vocab_size=vocab,
        global_attn_every_n_layers=every,
        local_attention=window,
        max_position_embeddings=np.full(len(depth), section.max_position_embeddings, dtype=np.int64),
        architecture=section.architecture,
    )


def _distinct_layers(section: ShapeSection) -> Iterator[tuple[int, int, int]]:
    for hidden in section.hidden_size:
        intermediates = intermediate_sizes(section, hidden)
        for head in section.head_size:
            if hidden % head == 0:
                yield from ((hidden, hidden // head, i) for i in intermediates)


def random_shapes(section: ShapeSection, generator: np.random.Generator, count: int) -> ShapeTable:
    """Up to `count` shapes whose head size divides their width, each value drawn uniformly by itself."""
    hidden = generator.choice(section.hidden_size, count)
    head = generator.choice(section.head_size, count)
    hidden, head = hidden[hidden % head == 0], head[hidden % head == 0]
    position = generator.random(len(hidden))
    intermediate = np.zeros_like(hidden)
    for width in np.unique(hidden):
        rows = hidden == width
        if sizes := intermediate_sizes(section, int(width)):
            drawn = (position[rows] * len(sizes)).astype(int)
            intermediate[rows] = [sizes[index] for index in drawn.tolist()]
    kept = intermediate > 0
    hidden, head, intermediate = hidden[kept], head[kept], intermediate[kept]
    every = generator.choice(section.global_attn_every_n_layers, len(hidden))
    window = generator.choice(section.local_attention, len(hidden))
    window[every == 1] = section.local_attention[0]
    depth = generator.choice(section.num_hidden_layers, len(hidden))
    vocab = generator.choice(section.vocab_size, len(hidden))
    return shape_table(section, depth, hidden, hidden // head, intermediate, every, window, vocab)
