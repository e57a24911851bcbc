from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.training.packing import cut_documents, endless, pack

CLS, SEP = -1, -2
documents = st.lists(st.lists(st.integers(0, 9), max_size=60), max_size=20)


@given(documents, st.integers(8, 40))
def test_cutting_keeps_every_token_in_order(texts, length):
    sequences = cut_documents(texts, length, cls=CLS, sep=SEP)
    for sequence in sequences:
        assert 3 <= len(sequence) <= length
        assert sequence[0] == CLS and sequence[-1] == SEP
    assert [t for s in sequences for t in s[1:-1]] == [t for text in texts for t in text]


@given(documents, st.integers(8, 40), st.integers(40, 100))
def test_packing_neither_loses_nor_mixes_sequences(texts, length, tokens_per_row):
    sequences = cut_documents(texts, length, cls=CLS, sep=SEP)
    rows = list(pack(sequences, tokens_per_row))
    unpacked = [part.tolist() for row in rows for part in np.split(row.tokens, row.cu_seqlens[1:-1])]
    assert unpacked == [sequence.tolist() for sequence in sequences]
    for row, following in pairwise(rows):
        first = following.cu_seqlens[1]
        assert len(row.tokens) <= tokens_per_row < len(row.tokens) + first
    for row in rows:
        assert row.cu_seqlens[0] == 0 and row.cu_seqlens[-1] == len(row.tokens)
        assert row.max_seqlen == max(np.diff(row.cu_seqlens))


def test_every_epoch_has_all_sequences_in_another_order():
    sequences = [np.array([i]) for i in range(50)]
    drawn = [int(s[0]) for s in islice(endless(sequences, seed=4), 100)]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50))
    assert drawn[:50] != drawn[50:]
    assert drawn == [int(s[0]) for s in islice(endless(sequences, seed=4), 100)]
