"""Documents as sequences, sequences as rows of tokens without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """Sequences one after the other.

    Attributes:
        tokens: ids, int64 [T].
        cu_seqlens: offsets of the sequences, int32 [sequences + 1], from 0 to T.
    """

    tokens: Tokens
    cu_seqlens: NDArray[np.int32]

    @property
    def max_seqlen(self) -> int:
        return int(np.diff(self.cu_seqlens).max())


def cut_documents(
    documents: Iterable[list[int]], sequence_length: int, *, cls: int, sep: int
) -> list[Tokens]:
    """CLS, up to `sequence_length` - 2 ids, SEP; a document's parts follow each other."""
    room = sequence_length - 2
    return [
        np.array([cls, *ids[start : start + room], sep], dtype=np.int64)
        for ids in documents
        for start in range(0, len(ids), room)
    ]


def pack(sequences: Iterable[Tokens], tokens_per_row: int) -> Iterator[Row]:
    """Rows in the order of the sequences; one that no longer fits opens the next row."""
    row: list[Tokens] = []
    tokens = 0
    for sequence in sequences:
        if row and tokens + len(sequence) > tokens_per_row:
            yield _row(row)
            row, tokens = [], 0
        row.append(sequence)
        tokens += len(sequence)
    if row:
        yield _row(row)


def endless(sequences: list[Tokens], seed: int) -> Iterator[Tokens]:
    """All sequences again and again, each time in another order."""
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(len(sequences)):
            yield sequences[index]
        epoch += 1


def _row(sequences: list[Tokens]) -> Row:
    offsets = np.cumsum([0, *(len(sequence) for sequence in sequences)], dtype=np.int32)
    return Row(np.concatenate(sequences), offsets)
