"""The work list of the kernels, and the grids that walk it, against plain Python."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from attention_truth import DEVICE
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.kernels import attention_schedule
from hwsearch.kernels.schedule import TILE_SIZES
from hwsearch.kernels.triton_attention.launch import Call, _grid

some_lengths = st.lists(st.integers(0, 300) | st.sampled_from([16, 32, 64, 128]), max_size=20)


def offsets(lengths, dtype=torch.int32):
    return torch.tensor([0, *accumulate(lengths)], dtype=dtype, device=DEVICE)


def tiles(lengths, rows):
    """(first token, length, first row) of each tile, tiles of the longest sequences first."""
    starts = [0, *accumulate(lengths)]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [(starts[i], lengths[i], first) for i in order for first in range(0, lengths[i], rows)]


@given(lengths=some_lengths, dtype=st.sampled_from([torch.int32, torch.int64]))
def test_each_tile_once_longest_first_then_zeros(lengths, dtype):
    schedule = attention_schedule(offsets(lengths, dtype), sum(lengths), max(lengths, default=0))
    slots = -(-(sum(lengths) // 16 + len(lengths) + 1) // 4) * 4
    assert schedule.dtype == torch.int32
    assert schedule.shape == (len(TILE_SIZES), slots, 3)
    for rows, entries in zip(TILE_SIZES, schedule.tolist(), strict=True):
        expected = tiles(lengths, rows)
        assert len(expected) < slots
        assert [tuple(entry) for entry in entries] == expected + [(0, 0, 0)] * (slots - len(expected))


@given(lengths=some_lengths.filter(sum), spare=st.integers(0, 200), rows=st.sampled_from(TILE_SIZES))
def test_grid_covers_all_tiles_and_stays_in_the_list(lengths, spare, rows):
    schedule = attention_schedule(offsets(lengths), sum(lengths), max(lengths, default=0))
    call = Call(schedule, len(lengths), max(lengths) + spare, -1, False, 1.0, None, None)
    slots, heads = _grid(call, sum(lengths), rows, 3)
    assert heads == 3
    assert len(tiles(lengths, rows)) <= slots <= schedule.shape[1]


@given(
    cut=st.lists(st.integers(-50, 400), min_size=1, max_size=12),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    tokens=st.integers(0, 200),
)
@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU's assertion ends the process")
def test_wrong_offsets_are_refused(cut, dtype, tokens):
    right = cut[0] == 0 and cut[-1] == tokens and cut == sorted(cut)
    try:
        schedule = attention_schedule(torch.tensor(cut, dtype=dtype), tokens, tokens)
    except ValueError as refusal:
        assert str(refusal).startswith("cu_seqlens:") and not right
        return
    assert right
    base, length, first = schedule.unbind(2)
    assert (base >= 0).all()
    assert (length >= 0).all()
    assert (base + length <= tokens).all()
    assert ((first >= 0) & (first <= length)).all()


@pytest.mark.parametrize(
    "offsets",
    [
        torch.tensor([0.0, 3.0]),
        torch.tensor([0, 3], dtype=torch.int16),
        torch.tensor([[0, 3]]),
        torch.tensor(3),
    ],
    ids=["floats", "int16", "two dimensions", "none"],
)
def test_offsets_of_another_kind_are_refused(offsets):
    with pytest.raises(ValueError, match=r"^cu_seqlens: .* accepted: int32 or int64 \[sequences \+ 1\]$"):
        attention_schedule(offsets.to(DEVICE), 3, 3)


def test_tile_lists_do_not_depend_on_the_dtype_of_offsets():
    a, b = (
        attention_schedule(offsets([40, 0, 300], dtype), 340, 300) for dtype in (torch.int32, torch.int64)
    )
    assert torch.equal(a, b)


def test_a_sequence_longer_than_max_seqlen_is_refused():
    with pytest.raises(ValueError, match=r"^max_seqlen: 299 "):
        attention_schedule(offsets([40, 0, 300]), 340, 299)
