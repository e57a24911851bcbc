"""Steps: no token lost, doubled or mixed; the same again after a resume and on several processes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.training.batches import DataState, batches, evaluation_rows
from hwsearch.training.order import Order
from hwsearch.training.sequences import Documents
from hwsearch.training.token_cache import TokenCache
from hwsearch.training.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["a short text " * 10], 300)
CLS, SEP = TOKENIZER.id("cls"), TOKENIZER.id("sep")


def cache_of(lengths, *, held_out=(40, 7, 25)) -> TokenCache:
    """Documents of these lengths; no two tokens beside each other occur twice, so each can be told apart."""

    def documents(lengths):
        tokens = (
            np.random.default_rng(0)
            .choice(np.flatnonzero(TOKENIZER.is_ordinary), sum(lengths))
            .astype(np.uint16)
        )
        return Documents(tokens, np.cumsum([0, *lengths]))

    return TokenCache(Path("unused"), "test", "digest", TOKENIZER, documents(lengths), documents(held_out))


def steps(cache, count, *, rows=2, tokens_per_row=256, sequence_length=64, share=0.3, seed=5, **more):
    options = {"mask_share": share, "seed": seed, "rows_of_step": lambda step: rows}
    options |= {"sequence_length": sequence_length, "tokens_per_row": tokens_per_row} | more
    return list(islice(batches(cache, **options), count))


def unmasked(masked) -> list[tuple[int, ...]]:
    """The row's sequences as they were before masking."""
    tokens = masked.row.tokens.copy()
    tokens[masked.positions] = masked.targets
    return [tuple(part.tolist()) for part in np.split(tokens, masked.row.cu_seqlens[1:-1])]


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y)
        for one, other in zip(a.rows, b.rows, strict=True)
        for x, y in (
            (one.row.tokens, other.row.tokens),
            (one.row.cu_seqlens, other.row.cu_seqlens),
            (one.positions, other.positions),
            (one.targets, other.targets),
        )
    )


def all_sequences(cache, length):
    """By plain slicing."""
    documents, room = cache.training, length - 2
    for begin, end in zip(documents.offsets, documents.offsets[1:], strict=False):
        for start in range(begin, end, room):
            yield (CLS, *documents.tokens[start : min(start + room, end)].tolist(), SEP)


lengths = st.lists(st.integers(1, 150), min_size=1, max_size=40)


@settings(max_examples=50)
@given(lengths, st.integers(8, 64), st.integers(64, 300), st.integers(1, 4))
def test_every_epoch_holds_every_token_once(texts, sequence_length, tokens_per_row, rows):
    """What was read and what is held are, together, the first draws: no sequence lost, doubled or mixed."""
    cache = cache_of(texts)
    read = steps(cache, 6, rows=rows, tokens_per_row=tokens_per_row, sequence_length=sequence_length)
    state = read[-1].state
    expected = list(all_sequences(cache, sequence_length))
    drawn = Order(len(expected), 5).draw(state.epoch * len(expected) + state.position)
    seen = Counter(sequence for step in read for masked in step.rows for sequence in unmasked(masked))
    seen.update(expected[number % len(expected)] for number in state.held)
    assert seen == Counter(expected[number % len(expected)] for number in drawn)
    for step in read:
        assert len(step.rows) == rows
        assert step.tokens == sum(len(masked.row.tokens) for masked in step.rows)
        assert all(0 < len(masked.row.tokens) <= tokens_per_row for masked in step.rows)


@settings(max_examples=50)
@given(lengths, st.integers(0, 8), st.integers(1, 3))
def test_a_state_continues_the_very_order(texts, stopped_after, rows):
    cache = cache_of(texts)
    whole = steps(cache, 10, rows=rows)
    state = ([None] + [step.state for step in whole])[stopped_after]
    if state is not None:  # through a file, as a checkpoint keeps it
        state = DataState.from_dict(json.loads(json.dumps(state.to_dict())))
    rest = steps(cache, 10 - stopped_after, rows=rows, state=state)
    assert all(same(a, b) and a.state == b.state for a, b in zip(whole[stopped_after:], rest, strict=True))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_share_the_rows_of_one(world_size):
    cache = cache_of([90] * 30)
    alone = steps(cache, 4, rows=6)
    ranks = [steps(cache, 4, rows=6, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, step in enumerate(alone):
        rows = [ranks[row % world_size][number].rows[row // world_size] for row in range(6)]
        assert same(replace(step, rows=rows), step)
        assert {rank[number].tokens for rank in ranks} == {step.tokens}
        assert {rank[number].state for rank in ranks} == {step.state}
        assert sum(len(rank[number].rows) for rank in ranks) == 6


def test_masks_are_the_sample_s_own():
    """The same sequences are hidden alike in rows of any size; another epoch or seed hides others."""
    cache = cache_of(list(range(3, 60)))

    def hidden(count, **options):
        found = {}
        for step in steps(cache, count, **options):
            for masked in step.rows:
                now = np.split(masked.row.tokens, masked.row.cu_seqlens[1:-1])
                for sequence, tokens in zip(unmasked(masked), now, strict=True):
                    found.setdefault(sequence, []).append(tuple(tokens.tolist()))
        return found

    small, large = hidden(20, rows=1, tokens_per_row=100), hidden(4, rows=2, tokens_per_row=400)
    both = [s for s in small.keys() & large.keys() if len(s) > 20]
    assert len(both) > 10 and all(small[s][0] == large[s][0] for s in both)
    other = hidden(20, rows=1, tokens_per_row=100, seed=6)
    assert any(small[s][0] != other[s][0] for s in both if s in other)
    epochs = [times for s, times in hidden(60).items() if len(s) > 20]
    assert all(len(times) > 1 and len(set(times)) > 1 for times in epochs)


@pytest.mark.parametrize(
    ("mean", "deviation", "longest"), [(256, 64, 512), (4096, 1024, 8192)], ids=["short", "long"]
)
def test_rows_of_the_paper_are_over_99_percent_full(mean, deviation, longest):
    """The paper's length mixes in its rows of 98,304 tokens (microbatch 96 x 1024 or 12 x 8192)."""
    drawn = np.random.default_rng(42).normal(mean, deviation, 8192 * 256 // mean)
    cache = cache_of((np.clip(drawn, 32, longest) - 2).astype(int).tolist())
    rows = steps(cache, 8, rows=1, tokens_per_row=98_304, sequence_length=longest)
    assert sum(step.tokens for step in rows) > 0.99 * 8 * 98_304


def test_rows_may_grow_from_step_to_step():
    cache = cache_of([50] * 40)
    grown = steps(cache, 5, rows_of_step=lambda step: 1 + step)
    assert [len(step.rows) for step in grown] == [1, 2, 3, 4, 5]
    resumed = steps(cache, 2, rows_of_step=lambda step: 1 + step, state=grown[2].state)
    assert same(resumed[1], grown[4])


def test_a_state_of_other_data_is_refused():
    cache = cache_of([50] * 40)
    state = steps(cache, 2)[-1].state
    for other in (replace(cache, digest="another"), cache):
        options = {} if other is not cache else {"seed": 6}
        with pytest.raises(HwsearchError, match="began with the data digest-64-5"):
            steps(other, 1, state=state, **options)


def test_a_sequence_must_fit_a_row():
    for length in (7, 65):
        with pytest.raises(HwsearchError, match=f"sequence_length: {length}; accepted: 8 to the 64"):
            steps(cache_of([50]), 1, tokens_per_row=64, sequence_length=length)


def test_evaluation_reads_all_held_out_text_and_always_hides_the_same():
    cache = cache_of([50] * 10, held_out=[30] * 200)
    rows = evaluation_rows(cache, sequence_length=64, tokens_per_row=256)
    read = [sequence for masked in rows for sequence in unmasked(masked)]
    assert Counter(read) == Counter(all_sequences(replace(cache, training=cache.held_out), 64))
    tokens = sum(len(masked.targets) for masked in rows)
    assert tokens / 6000 == pytest.approx(0.15, abs=5 * (0.1275 / 6000) ** 0.5)
    longer = evaluation_rows(cache, sequence_length=64, tokens_per_row=1024)
    assert len(longer) < len(rows)
    assert sorted(np.concatenate([m.targets for m in longer])) == sorted(
        np.concatenate([m.targets for m in rows])
    )


def test_an_order_has_everything_once_an_epoch():
    order = Order(50, seed=4)
    drawn = np.concatenate([order.draw(count) for count in (7, 43, 60, 0, 40)])
    epochs = drawn.reshape(4, 50)[:3] if len(drawn) == 200 else drawn.reshape(3, 50)
    assert [sorted(epoch) for epoch in epochs] == [list(range(50 * e, 50 * e + 50)) for e in range(3)]
    assert not np.array_equal(epochs[0], epochs[1] - 50)
    again = Order(50, 4, epoch=1, position=10).draw(30)
    assert np.array_equal(again, drawn[60:90])
    assert not np.array_equal(Order(50, seed=5).draw(50), drawn[:50])
