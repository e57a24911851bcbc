from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from hwsearch.training.masking import Masking, mask_row, sample_keys
from hwsearch.training.packing import Row
from hwsearch.training.tokenizer import train_tokenizer

MASK = 4
ORDINARY = np.arange(5, 1005)
IDS = np.arange(1010)
IS_ORDINARY = (IDS >= 5) & (IDS < 1005)  # special ones at both ends


def row_of(*sequences) -> Row:
    tokens = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences])
    return Row(tokens, np.cumsum([0, *map(len, sequences)]).astype(np.int32))


def hide(row, share=0.3, seed=0, epoch=0, first=0):
    numbers = np.arange(first, first + len(row.cu_seqlens) - 1)
    keys = sample_keys(seed, np.full(len(numbers), epoch), numbers)
    return mask_row(row, keys, Masking(share, MASK, IS_ORDINARY))


def test_shares_of_a_large_row():
    """Shares within five standard deviations: 100,000 tokens, one in 0.3 of them hidden."""
    tokens = np.random.default_rng(1).choice(ORDINARY, 100_000)
    hidden = hide(row_of(*np.split(tokens, 100)))
    now = hidden.row.tokens[hidden.positions]
    count = len(hidden.positions)
    assert count / 100_000 == pytest.approx(0.3, abs=5 * (0.21 / 100_000) ** 0.5)
    assert np.mean(now == MASK) == pytest.approx(0.8, abs=5 * (0.16 / count) ** 0.5)
    assert np.mean(now == hidden.targets) == pytest.approx(0.1, abs=5 * (0.09 / count) ** 0.5)
    replaced = now[(now != MASK) & (now != hidden.targets)]
    assert len(replaced) / count == pytest.approx(0.1, abs=5 * (0.09 / count) ** 0.5)
    # A true draw from the whole vocabulary: both ends and nearly everything between occurs.
    assert len(np.unique(replaced)) > 900 and replaced.min() < 15 and replaced.max() > 994


def test_random_bits_are_even_and_independent():
    """Places, sequences, epochs and seeds: masks of neighbours agree as often as chance has it."""
    row = row_of(*[np.full(1000, 7)] * 100)

    def mask(**where):
        hidden = np.zeros(100_000, bool)
        hidden[hide(row, share=0.5, **where).positions] = True
        return hidden

    base = mask()
    neighbours = [np.roll(base, 1), np.roll(base, 1000), mask(seed=1), mask(epoch=1), mask(first=100)]
    for other in neighbours:
        assert np.mean(base == other) == pytest.approx(0.5, abs=5 * (0.25 / 100_000) ** 0.5)
    # Evenly over the places of a sequence: chi-square with 999 degrees of freedom, mean 999, deviation 45.
    by_place = base.reshape(100, 1000).sum(axis=0)
    assert ((by_place - 50) ** 2 / 25).sum() == pytest.approx(1000, abs=5 * 45)


def test_masks_do_not_depend_on_the_row():
    sequences = [np.random.default_rng(i).choice(ORDINARY, 40 + i) for i in range(5)]
    together = hide(row_of(*sequences), seed=3, epoch=2)
    for number, sequence in enumerate(sequences):
        alone = hide(row_of(sequence), seed=3, epoch=2, first=number)
        begin, end = together.row.cu_seqlens[number : number + 2]
        assert (together.row.tokens[begin:end] == alone.row.tokens).all()
        inside = (together.positions >= begin) & (together.positions < end)
        assert (together.positions[inside] - begin == alone.positions).all()
        assert (together.targets[inside] == alone.targets).all()


def test_only_hidden_places_change_and_targets_are_the_old_tokens():
    tokens = np.random.default_rng(1).choice(ORDINARY, 500)
    before = tokens.copy()
    hidden = hide(row_of(tokens))
    assert (tokens == before).all()
    assert (hidden.targets == tokens[hidden.positions]).all()
    untouched = np.setdiff1d(np.arange(500), hidden.positions)
    assert (hidden.row.tokens[untouched] == tokens[untouched]).all()
    assert (np.diff(hidden.positions) > 0).all()


def test_special_tokens_are_never_hidden_and_a_share_of_one_hides_all_others():
    hidden = hide(row_of(*[[1, 7, 1009]] * 200), share=1.0)
    assert hidden.positions.tolist() == list(range(1, 600, 3))


def test_one_token_at_least_is_hidden():
    for seed in range(50):
        assert hide(row_of([1, 7, 2]), share=0.01, seed=seed).positions.tolist() == [1]
        # Nothing ordinary at all, as where a tokenizer does not know a script.
        assert hide(row_of([1, 0, 0, 2], [1, 0, 2]), seed=seed).positions.tolist() in ([1], [2], [5])


def test_same_shares_as_transformers(tmp_path):
    """DataCollatorForLanguageModeling on the same text: how much becomes what agrees within chance."""
    ours = train_tokenizer(["low lower lowest new newer newest " * 20], 320)
    ours.save(tmp_path, 512)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ordinary = np.flatnonzero(ours.is_ordinary)
    tokens = np.random.default_rng(0).choice(ordinary, (100, 500))
    sequences = np.pad(tokens, ((0, 0), (1, 1)))
    sequences[:, 0], sequences[:, -1] = ours.id("cls"), ours.id("sep")
    torch.manual_seed(0)
    collator = DataCollatorForLanguageModeling(theirs, mlm_probability=0.3)
    batch = collator([{"input_ids": sequence} for sequence in sequences.tolist()])
    hf_inputs, hf_labels = batch["input_ids"].numpy(), batch["labels"].numpy()

    row = row_of(*sequences)
    keys = sample_keys(0, np.zeros(100, np.int64), np.arange(100))
    hidden = mask_row(row, keys, Masking(0.3, ours.id("mask"), ours.is_ordinary))
    hf_hidden = hf_labels != -100
    assert not hf_hidden[:, [0, -1]].any()
    assert len(hidden.positions) / hf_hidden.sum() == pytest.approx(1, abs=0.05)
    ours_now, theirs_now = hidden.row.tokens[hidden.positions], hf_inputs[hf_hidden]
    for test in (lambda now, old: now == ours.id("mask"), lambda now, old: now == old):
        share = np.mean(test(ours_now, hidden.targets))
        assert share == pytest.approx(np.mean(test(theirs_now, hf_labels[hf_hidden])), abs=0.02)
