"""Masked language modelling: which tokens are hidden, and what stands in their place.

What happens to a token depends on the seed, the epoch, the sequence and the place in it, and on nothing
else: not on the row, the batch or the number of processes. So no generator is carried along. Each token
has its own 64 random bits, by SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195):
a counter times an odd constant, mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsearch.training.packing import Row
from hwsearch.training.sequences import Ids

MASKED, REPLACED = 0.8, 0.1  # the remaining tenth stays as it is

Bits = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
RESOLUTION = 1 << 24


@dataclass(frozen=True)
class MaskedRow:
    """A row to learn from.

    Attributes:
        row: with hidden tokens, [T].
        positions: where on the packed axis to predict, int64 [P], P >= 1, ascending.
        targets: the ids that stood there, int64 [P].
    """

    row: Row
    positions: Ids
    targets: Ids


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: of the ordinary tokens, over 0 and up to 1.
        mask: id of MASK.
        is_ordinary: for every id, whether it is none of the special ones, which are never predicted, [ids].
    """

    share: float
    mask: int
    is_ordinary: NDArray[np.bool_]

    @cached_property
    def ordinary_ids(self) -> Ids:
        return np.flatnonzero(self.is_ordinary)


def sample_keys(seed: int, epochs: Ids, numbers: Ids) -> Bits:
    """64 random bits for each sequence by its epoch and its number, [n]."""
    key = _mix(np.full(1, seed, np.uint64) * GOLDEN)
    key = _mix(key + epochs.astype(np.uint64) * GOLDEN)
    return _mix(key + numbers.astype(np.uint64) * GOLDEN)


def mask_row(row: Row, keys: Bits, masking: Masking) -> MaskedRow:
    """Hide each ordinary token with probability `masking.share`, and one token of the row at least.

    Of the hidden ones 80 % become MASK, 10 % an id drawn evenly from all ordinary ones, 10 % stay.

    Args:
        keys: of each sequence in the row, by `sample_keys`.
    """
    begin = row.cu_seqlens[:-1].astype(np.uint64)
    bits = np.repeat(keys - begin * GOLDEN, np.diff(row.cu_seqlens))
    bits += np.arange(1, len(row.tokens) + 1, dtype=np.uint64) * GOLDEN
    bits = _mix(bits)
    # The highest 24 bits decide whether, the next 24 what; a replacement is drawn from another 32.
    hidden = np.flatnonzero(bits < np.uint64(min(round(masking.share * RESOLUTION) << 40, 2**64 - 1)))
    positions = hidden[masking.is_ordinary[row.tokens[hidden]]]
    if positions.size == 0:
        positions = _first_choice(row, bits, masking)
    targets = row.tokens[positions]
    fate = (bits[positions] >> np.uint64(16) & np.uint64(RESOLUTION - 1)) / RESOLUTION
    tokens = row.tokens.copy()
    tokens[positions[fate < MASKED]] = masking.mask
    replaced = positions[(fate >= MASKED) & (fate < MASKED + REPLACED)]
    drawn = _mix(bits[replaced] + GOLDEN) >> np.uint64(32)
    tokens[replaced] = masking.ordinary_ids[drawn * np.uint64(len(masking.ordinary_ids)) >> np.uint64(32)]
    return MaskedRow(Row(tokens, row.cu_seqlens), positions, targets)


def _first_choice(row: Row, bits: Bits, masking: Masking) -> Ids:
    """The token of lowest bits: an ordinary one, or where there is none anything but CLS and SEP."""
    candidates = np.flatnonzero(masking.is_ordinary[row.tokens])
    if candidates.size == 0:
        candidates = np.setdiff1d(np.arange(len(row.tokens)), [row.cu_seqlens[:-1], row.cu_seqlens[1:] - 1])
    return candidates[[np.argmin(bits[candidates])]]


def _mix(bits: Bits) -> Bits:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
