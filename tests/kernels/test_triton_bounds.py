"""The kernels touch no element but those of their tensors, and write all that they return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from unittest.mock import patch

import pytest
import torch
from attention_truth import DEVICE, Case, error, ours, rope_tables, truth, with_gradients
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter_memory import watched_memory
from torch import Tensor
from triton.runtime.errors import InterpreterError

from hwsearch.kernels import attention_schedule, varlen_attention_qkvpacked
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.launch import Call

GUARD = 4096
SENTINEL = 12288.0  # in all dtypes

cases = st.builds(
    Case,
    lengths=st.lists(st.integers(0, 40) | st.sampled_from([63, 64, 65, 70]), min_size=1, max_size=4)
    .filter(lambda lengths: 0 < sum(lengths) <= 140)
    .map(tuple),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    heads=st.just(2),
    key_heads=st.sampled_from([1, 2]),
    window=st.none() | st.integers(0, 70),
    causal=st.booleans(),
    rope=st.booleans(),
    spare=st.sampled_from([0, 1, 600]),
)


@settings(max_examples=12, deadline=None)
@given(case=cases, gap=st.sampled_from([0, 8]), with_dlse=st.booleans())
def test_inside_and_whole(case, gap, with_dlse):
    """Inputs lie in storage full of NaN; outputs are NaN at first, between sentinels."""
    q, k, v = (among_nan(x, gap) for x in case.qkv())
    dout = among_nan(case.random(case.heads, seed=1)[0], gap)
    dlse = torch.ones(case.heads, case.tokens, device=DEVICE) if with_dlse else None
    with watched_memory(), guarded_outputs():
        found = with_gradients(ours, q, k, v, case, dout, dlse)
    right = with_gradients(truth, q, k, v, case, dout, dlse)
    tolerance = 1e-5 if case.dtype == torch.float32 else 0.05
    for name, x in found.items():
        assert error(x, right[name]) <= tolerance * max(1, right[name].abs().max()), name


def among_nan(x: Tensor, gap: int) -> Tensor:
    """x in a storage that holds NaN around its tokens, and `gap` elements of NaN after each head."""
    tokens, heads, size = x.shape
    buffer = torch.full(
        (tokens + 2 * GUARD // size, heads, size + gap), torch.nan, dtype=x.dtype, device=DEVICE
    )
    view = buffer[GUARD // size : GUARD // size + tokens, :, :size]
    view.copy_(x)
    return view


@contextmanager
def guarded_outputs() -> Iterator[None]:
    """What the launcher allocates is NaN at first, between guards that must not change."""
    buffers = []

    def empty(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        count = prod(shape)
        buffer = torch.full((count + 2 * GUARD,), SENTINEL, dtype=dtype, device=device)
        inside = buffer[GUARD : GUARD + count]
        inside.fill_(torch.nan)
        buffers.append(buffer)
        return inside.view(shape)

    def empty_like(x: Tensor) -> Tensor:
        return empty(x.shape, dtype=x.dtype, device=x.device)

    with patch.object(torch, "empty", empty), patch.object(torch, "empty_like", empty_like):
        yield
    assert buffers
    for buffer in buffers:
        assert (buffer[:GUARD] == SENTINEL).all()
        assert (buffer[-GUARD:] == SENTINEL).all()


@pytest.mark.parametrize("lengths", [(5, 0, 33), (70, 3)], ids=str)
def test_packed_gradient_is_written_whole(lengths):
    case = Case(lengths, heads=2, rope=True)
    qkv = torch.stack(case.random(2, 2, 2), dim=1).requires_grad_()
    with watched_memory(), guarded_outputs():
        out = varlen_attention_qkvpacked(
            qkv, case.cu_seqlens(), case.max_seqlen, rope=case.rope_tables(), backend="triton"
        )
        (gradient,) = torch.autograd.grad(out.sum(), qkv)
    assert gradient.shape == qkv.shape
    assert out.isfinite().all()
    assert gradient.isfinite().all()


entries = st.tuples(st.integers(-100, 200), st.integers(-100, 200), st.integers(-100, 200))


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(entries, min_size=1, max_size=6),
    max_seqlen=st.sampled_from([20, 70]),
    window=st.sampled_from([-1, 5]),
    causal=st.booleans(),
    rope=st.booleans(),
)
@example(rows=[(0, 142, 80)], max_seqlen=70, window=-1, causal=True, rope=False)
def test_inside_whatever_the_schedule_says(rows, max_seqlen, window, causal, rope):
    """On a GPU nobody reads the offsets: those of another batch must not lead out of the tensors."""
    case = Case((70, 0, 30), heads=2, key_heads=1)
    schedule = attention_schedule(case.cu_seqlens(), case.tokens, max(case.lengths))
    schedule[:, : len(rows)] = torch.tensor(rows, dtype=torch.int32)
    cos, sin = rope_tables(max_seqlen, case.size) if rope else (None, None)
    call = Call(schedule, 3, max_seqlen, window, causal, 0.2, cos, sin)
    q, k, v, dout = case.random(2, 1, 1, 2)
    with watched_memory(races=False), guarded_outputs():
        out, lse = launch.forward(q, k, v, call)
        launch.backward(dout, None, q, k, v, out, lse, call, *(torch.empty_like(x) for x in (q, k, v)))


@pytest.mark.skipif(DEVICE != "cpu", reason="the interpreter's memory")
def test_a_kernel_that_leaves_its_tensors_is_seen():
    case = Case((70, 0, 30))
    schedule = attention_schedule(case.cu_seqlens(), case.tokens, max(case.lengths))
    with watched_memory(), pytest.raises(InterpreterError, match="load of 1 elements outside"):
        launch.forward(*case.qkv(), Call(schedule[:, :2], 3, 70, -1, False, 0.2, None, None))
    twice = schedule[:, [0, 0, 1, 2, 3, 4, 5, 6, 7]].contiguous()
    with watched_memory(), pytest.raises(AssertionError, match="stored more than once"):
        launch.forward(*case.qkv(), Call(twice, 3, 70, -1, False, 0.2, None, None))
