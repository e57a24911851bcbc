"""Sequences into rows of tokens without padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.training.sequences import ENDS, Ids, Sequences


@dataclass(frozen=True)
class Row:
    """Sequences one after the other.

    Attributes:
        tokens: ids, int64 [T].
        cu_seqlens: offsets of the sequences, int32 [sequences + 1], from 0 to T.
    """

    tokens: Ids
    cu_seqlens: NDArray[np.int32]

    @property
    def max_seqlen(self) -> int:
        return int(np.diff(self.cu_seqlens).max())


def best_fit(lengths: Ids, rows: int, tokens_per_row: int) -> list[list[int]]:
    """Which sequences each row takes: in turn, each goes to the fullest row that still has room for it.

    Greedy best fit, as FlexBERT packs (arXiv 2412.13663, appendix A). What fits nowhere is in no row.

    Args:
        lengths: tokens of each sequence, [n].

    Returns indices into `lengths`, a list per row; lists are empty where sequences ran out.
    """
    taken: list[list[int]] = [[] for _ in range(rows)]
    room = [(tokens_per_row, row) for row in range(rows)]  # ascending
    largest = tokens_per_row
    for index, length in enumerate(lengths.tolist()):
        if length > largest:
            continue
        left, row = room.pop(bisect_left(room, (length, -1)))
        taken[row].append(index)
        insort(room, (left - length, row))
        largest = room[-1][0]
    return taken


def fill_row(sequences: Sequences, numbers: Ids, *, cls: int, sep: int) -> Row:
    """A row of these sequences, in this order."""
    begin, end = sequences.spans(numbers)
    offsets = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(end - begin + ENDS, out=offsets[1:])
    # Where each place of the row lies in the corpus. CLS and SEP borrow their neighbours' place at first.
    source = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1] - 1, np.diff(offsets))
    source[offsets[:-1]] += 1
    source[offsets[1:] - 1] -= 1
    tokens = sequences.documents.tokens[source].astype(np.int64)
    tokens[offsets[:-1]] = cls
    tokens[offsets[1:] - 1] = sep
    return Row(tokens, offsets.astype(np.int32))
