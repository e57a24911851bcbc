from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.training.packing import best_fit, fill_row
from hwsearch.training.sequences import Documents, Sequences

CLS, SEP = 901, 902
documents = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=60), max_size=20)


def corpus(texts) -> Documents:
    tokens = np.array([token for text in texts for token in text], np.uint16)
    return Documents(tokens, np.cumsum([0, *map(len, texts)]))


def parts(row) -> list[list[int]]:
    return [part.tolist() for part in np.split(row.tokens, row.cu_seqlens[1:-1])]


@given(documents, st.integers(8, 40))
def test_sequences_keep_every_token_in_order(texts, length):
    sequences = Sequences(corpus(texts), length)
    numbers = np.arange(len(sequences))
    cut = parts(fill_row(sequences, numbers, cls=CLS, sep=SEP)) if len(sequences) else []
    for part in cut:
        assert 3 <= len(part) <= length
        assert (part[0], part[-1]) == (CLS, SEP)
    assert [token for part in cut for token in part[1:-1]] == [token for text in texts for token in text]
    assert sequences.lengths(numbers).tolist() == [len(part) for part in cut]
    # No sequence crosses the end of a document, and none could be joined with its neighbour.
    per_document = [[text[i : i + length - 2] for i in range(0, len(text), length - 2)] for text in texts]
    assert [part[1:-1] for part in cut] == [part for text in per_document for part in text]


@given(documents, st.integers(8, 40), st.randoms())
def test_a_row_holds_the_sequences_asked_for(texts, length, random):
    sequences = Sequences(corpus(texts), length)
    if len(sequences) == 0:
        return
    numbers = np.array(random.choices(range(len(sequences)), k=7))
    row = fill_row(sequences, numbers, cls=CLS, sep=SEP)
    alone = [fill_row(sequences, np.array([number]), cls=CLS, sep=SEP).tokens.tolist() for number in numbers]
    assert parts(row) == alone
    assert row.tokens.dtype == np.int64 and row.cu_seqlens.dtype == np.int32
    assert row.cu_seqlens[0] == 0 and row.cu_seqlens[-1] == len(row.tokens)
    assert row.max_seqlen == max(map(len, alone))


@given(st.lists(st.integers(3, 50), max_size=80), st.integers(1, 6), st.integers(50, 120))
def test_best_fit_takes_each_sequence_once_at_most_and_overfills_no_row(lengths, rows, room):
    taken = best_fit(np.array(lengths, np.int64), rows, room)
    everything = [index for row in taken for index in row]
    assert len(taken) == rows and len(set(everything)) == len(everything)
    left = [room - sum(lengths[index] for index in row) for row in taken]
    assert all(space >= 0 for space in left)
    # What is left out fits nowhere, not even now that all rows have been filled.
    assert all(lengths[index] > max(left, default=0) for index in set(range(len(lengths))) - set(everything))
    assert all(earlier < later for row in taken for earlier, later in pairwise(row))


@given(st.lists(st.integers(3, 50), max_size=60), st.integers(1, 5), st.integers(50, 120))
def test_best_fit_is_greedy_best_fit(lengths, rows, room):
    """Against the definition, by search through all rows."""
    left, expected = [room] * rows, [[] for _ in range(rows)]
    for index, length in enumerate(lengths):
        fitting = [(space, row) for row, space in enumerate(left) if space >= length]
        if fitting:
            space, row = min(fitting)
            left[row] = space - length
            expected[row].append(index)
    assert best_fit(np.array(lengths, np.int64), rows, room) == expected


def test_an_empty_row_is_left_where_nothing_fits():
    assert best_fit(np.array([9, 9]), 2, 8) == [[], []]


def test_spans_of_a_corpus_too_large_for_32_bits():
    offsets = np.array([0, 5_000_000_000, 5_000_000_003])
    sequences = Sequences(Documents(np.empty(0, np.uint16), offsets), 1024)
    last = len(sequences) - 1
    assert sequences.spans(np.array([last])) == (pytest.approx(5_000_000_000), pytest.approx(5_000_000_003))
