from __future__ import annotations

import numpy as np
import pytest

from hwsearch.training.masking import mask_row
from hwsearch.training.packing import Row

MASK = 4
ORDINARY = np.arange(5, 1005)


def row_of(tokens) -> Row:
    tokens = np.asarray(tokens, dtype=np.int64)
    return Row(tokens, np.array([0, len(tokens)], dtype=np.int32))


def hide(row, share=0.3, seed=0):
    return mask_row(row, share, mask=MASK, ordinary_ids=ORDINARY, generator=np.random.default_rng(seed))


def test_shares_of_a_large_row():
    tokens = np.random.default_rng(1).choice(ORDINARY, 100_000)
    hidden = hide(row_of(tokens))
    now = hidden.row.tokens[hidden.positions]
    count = len(hidden.positions)
    assert count / 100_000 == pytest.approx(0.3, abs=0.005)
    assert np.mean(now == MASK) == pytest.approx(0.8, abs=0.01)
    assert np.mean(now == hidden.targets) == pytest.approx(0.1, abs=0.01)
    replaced = now[(now != MASK) & (now != hidden.targets)]
    assert len(replaced) / count == pytest.approx(0.1, abs=0.01)
    # A true draw from the whole vocabulary: both ends and nearly everything between occurs.
    assert len(np.unique(replaced)) > 900 and replaced.min() < 15 and replaced.max() > 994


def test_only_hidden_places_change_and_targets_are_the_old_tokens():
    tokens = np.random.default_rng(1).choice(ORDINARY, 500)
    before = tokens.copy()
    hidden = hide(row_of(tokens))
    assert (tokens == before).all()
    assert (hidden.targets == tokens[hidden.positions]).all()
    untouched = np.setdiff1d(np.arange(500), hidden.positions)
    assert (hidden.row.tokens[untouched] == tokens[untouched]).all()
    assert len(np.unique(hidden.positions)) == len(hidden.positions)


def test_special_tokens_are_never_hidden():
    tokens = [1, 7, 2] * 200
    hidden = hide(row_of(tokens), share=1.0)
    assert hidden.positions.tolist() == list(range(1, 600, 3))


def test_one_token_at_least_is_hidden():
    for seed in range(50):
        assert hide(row_of([1, 7, 2]), share=0.01, seed=seed).positions.tolist() == [1]


def test_same_generator_same_masks():
    row = row_of(np.arange(5, 505))
    assert (hide(row, seed=3).positions == hide(row, seed=3).positions).all()
    assert not np.array_equal(hide(row, seed=3).positions, hide(row, seed=4).positions)
