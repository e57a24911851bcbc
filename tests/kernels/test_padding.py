"""Packing a padded batch loses, moves and invents no token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.kernels import varlen_attention
from hwsearch.kernels.padding import Padding, pad, padding_of_lengths, padding_of_mask, unpad


@st.composite
def masks(draw):
    """[B, S] with left padding, right padding, holes and empty rows."""
    batch, length = draw(st.integers(1, 5)), draw(st.integers(0, 9))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)), dtype=torch.bool).view(
        batch, length
    )


@settings(max_examples=60, deadline=None)
@given(mask=masks(), trailing=st.sampled_from([(), (3,), (2, 3)]), known=st.booleans())
def test_unpad_keeps_every_token_in_order_and_pad_puts_it_back(mask, trailing, known):
    x = torch.arange(1, mask.numel() + 1).view(mask.shape)
    x = x.view(*mask.shape, *[1] * len(trailing)).expand(*mask.shape, *trailing)
    lengths = mask.sum(1).tolist()
    padding = padding_of_mask(mask, lengths if known else None)
    packed = unpad(x, padding)
    assert torch.equal(packed, x[mask])
    assert padding.cu_seqlens.dtype == torch.int32 and padding.cu_seqlens[0] == 0
    assert padding.cu_seqlens.diff().tolist() == lengths and padding.max_seqlen == max(lengths)
    for row, tokens in enumerate(packed.split(lengths)):
        assert torch.equal(tokens, x[row][mask[row]])
    back = pad(packed, padding)
    assert torch.equal(back[mask], x[mask]) and not back[~mask].any()
    assert back.shape == x.shape


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), max_size=6), spare=st.integers(0, 3))
def test_lengths_say_what_their_mask_says(lengths, spare):
    longest = max(lengths, default=0) + spare
    mask = torch.arange(longest) < torch.tensor(lengths, dtype=torch.int64)[:, None]
    ours, theirs = padding_of_lengths(lengths, longest), padding_of_mask(mask)
    assert torch.equal(ours.indices, theirs.indices) and ours.indices.dtype == torch.int64
    assert torch.equal(ours.cu_seqlens, theirs.cu_seqlens)
    assert ours.max_seqlen == theirs.max_seqlen == max(lengths, default=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_dtype(dtype):
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]]).to(dtype)
    assert padding_of_mask(mask).indices.tolist() == [0, 1, 4]


def test_gradients_go_back_to_their_places():
    padding = padding_of_lengths([2, 0, 3], 4)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unpad(x, padding), x)
    assert torch.autograd.gradcheck(lambda x: pad(x, padding), packed)


def test_attention_on_what_unpad_returns_is_attention_on_each_row():
    lengths = [5, 1, 8]
    padding = padding_of_lengths(lengths, 8)
    padded = torch.randn(3, 8, 2, 16, generator=torch.Generator().manual_seed(0))
    x = unpad(padded, padding)
    out = pad(varlen_attention(x, x, x, padding.cu_seqlens, padding.max_seqlen), padding)
    for row, length in enumerate(lengths):
        one = padded[row, :length].transpose(0, 1)
        expected = torch.nn.functional.scaled_dot_product_attention(one, one, one).transpose(0, 1)
        assert (out[row, :length] - expected).abs().max() < 1e-5


def test_known_lengths_read_nothing_back_from_the_device():
    """On the meta device there is nothing to read: anything that waits for a value raises."""
    padding = padding_of_lengths([2, 3], 4, device="meta")
    masked = padding_of_mask(torch.ones(2, 4, device="meta"), [2, 3])
    x = torch.empty(2, 4, 7, device="meta")
    for each in (padding, masked):
        assert isinstance(each, Padding) and each.max_seqlen == 3
        assert pad(unpad(x, each), each).shape == x.shape and unpad(x, each).shape == (5, 7)
    with pytest.raises((RuntimeError, NotImplementedError)):
        padding_of_mask(torch.ones(2, 4, device="meta"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: padding_of_lengths([2, 5], 4), r"lengths: 5 in row 1; accepted: 0 \.\. 4"),
        (lambda: padding_of_lengths([-1], 4), "lengths: -1 in row 0"),
        (lambda: padding_of_mask(torch.ones(4)), r"attention_mask: shape \(4,\)"),
        (lambda: padding_of_mask(torch.ones(2, 4), [4]), "lengths: 1 of them; accepted: 2"),
        (
            lambda: padding_of_mask(torch.ones(2, 4), [4, 3]),
            r"lengths: \[4, 3\]; attention_mask keeps \[4, 4\]",
        ),
        (
            lambda: unpad(torch.ones(2, 3), padding_of_lengths([2, 1], 4)),
            r"x: shape \(2, 3\); accepted: \[2, 4",
        ),
        (lambda: pad(torch.ones(2, 3), padding_of_lengths([2, 1], 4)), r"x: shape \(2, 3\); accepted: \[3, "),
    ],
)
def test_wrong_arguments(call, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        call()
