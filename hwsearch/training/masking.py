"""Masked language modelling: which tokens are hidden, and what stands in their place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsearch.training.packing import Row, Tokens

MASKED, REPLACED = 0.8, 0.1  # the remaining tenth stays as it is


@dataclass(frozen=True)
class MaskedRow:
    """A row to learn from.

    Attributes:
        row: with hidden tokens, [T].
        positions: where on the packed axis to predict, int64 [P], P >= 1.
        targets: the ids that stood there, int64 [P].
    """

    row: Row
    positions: Tokens
    targets: Tokens


def mask_row(
    row: Row, share: float, *, mask: int, ordinary_ids: Tokens, generator: np.random.Generator
) -> MaskedRow:
    """Hide each ordinary token with probability `share`, and one at least.

    Of the hidden ones 80 % become `mask`, 10 % an id drawn evenly from `ordinary_ids` (sorted),
    10 % stay. Special tokens are never predicted.
    """
    ordinary = np.flatnonzero(np.isin(row.tokens, ordinary_ids))
    chosen = ordinary[generator.random(ordinary.size) < share]
    if chosen.size == 0:
        chosen = generator.choice(ordinary, size=1)
    fate = generator.random(chosen.size)
    tokens = row.tokens.copy()
    tokens[chosen[fate < MASKED]] = mask
    replaced = chosen[(fate >= MASKED) & (fate < MASKED + REPLACED)]
    tokens[replaced] = generator.choice(ordinary_ids, size=replaced.size)
    return MaskedRow(Row(tokens, row.cu_seqlens), chosen, row.tokens[chosen])
