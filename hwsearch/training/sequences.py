"""Documents cut into sequences that exist only as numbers until a row is filled with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
ENDS = 2  # CLS and SEP
SHORTEST_SEQUENCE = 8  # CLS, SEP and something to predict between them


@dataclass(frozen=True)
class Documents:
    """Token ids of documents, one after the other.

    Attributes:
        tokens: ids without CLS and SEP, uint16 or uint32 [N]; usually a memory-mapped file.
        offsets: where each document begins, and where the last one ends, int64 [documents + 1].
    """

    tokens: NDArray[Any]
    offsets: Ids

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def token_count(self) -> int:
        return int(self.offsets[-1] - self.offsets[0])


@dataclass(frozen=True)
class Sequences:
    """CLS, up to `sequence_length` - 2 ids of one document, SEP; numbered in the documents' order.

    A document's last sequence may be short. Nothing is copied: this is arithmetic on the offsets.
    """

    documents: Documents
    sequence_length: int

    @cached_property
    def first(self) -> Ids:
        """Number of each document's first sequence, and the count of all, int64 [documents + 1]."""
        lengths = np.diff(self.documents.offsets)
        counts = -(-lengths // (self.sequence_length - ENDS))
        return np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def spans(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Where the ids of these sequences begin and end in `documents.tokens`, int64 [n] each."""
        document = np.searchsorted(self.first, numbers, side="right") - 1
        room = self.sequence_length - ENDS
        begin = self.documents.offsets[document] + (numbers - self.first[document]) * room
        return begin, np.minimum(begin + room, self.documents.offsets[document + 1])

    def lengths(self, numbers: Ids) -> Ids:
        """Tokens of these sequences, CLS and SEP included, int64 [n]."""
        begin, end = self.spans(numbers)
        return end - begin + ENDS
