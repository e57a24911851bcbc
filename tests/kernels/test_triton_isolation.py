"""What a query reads: its window to the last key, its own sequence, and nothing of its neighbours."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from attention_truth import Case, ours, with_gradients

OUTPUTS = ("out", "lse", "dq", "dk", "dv")


@pytest.mark.parametrize(
    ("length", "window", "causal"), [(131, 64, False), (131, 64, True), (40, 5, False), (20, 0, False)]
)
def test_window_shows_exactly_its_keys(length, window, causal):
    """By the gradient of the values, a head for each query: 129 keys for a window of 64."""
    queries = sorted({0, window + 1, length - 1})
    case = Case((7, length, 3), heads=len(queries), key_heads=len(queries), window=window, causal=causal)
    q, k, v = case.qkv()
    dout = torch.zeros_like(q)
    for head, query in enumerate(queries):
        dout[7 + query, head] = 1
    dv = with_gradients(ours, q, k, v, case, dout)["dv"]
    for head, query in enumerate(queries):
        last = query if causal else min(length - 1, query + window)
        seen = dv[:, head].abs().sum(dim=1).nonzero().flatten().tolist()
        assert seen == list(range(7 + max(0, query - window), 7 + last + 1))
        if (query, window, causal) == (65, 64, False):
            assert len(seen) == 129


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "case",
    [
        Case((5, 20, 0, 17), rope=True),
        Case((33, 64, 1, 70), torch.bfloat16, heads=2, window=5, rope=True),
        Case((70, 40, 65), torch.float16, causal=True, spare=600, rope=True),
    ],
    ids=["one tile", "window", "causal"],
)
def test_sequences_do_not_touch(case, poison):
    """The others' results are the same bits, whatever the second sequence holds."""
    start, stop = list(accumulate(case.lengths))[:2]
    inputs = [*case.qkv(), *case.random(case.heads, seed=1)]
    dlse = torch.ones(case.heads, case.tokens, device=inputs[0].device)
    clean = with_gradients(ours, *inputs[:3], case, inputs[3], dlse)
    for x in inputs:
        x[start:stop] = poison
    dlse[:, start:stop] = poison
    poisoned = with_gradients(ours, *inputs[:3], case, inputs[3], dlse)
    for name in OUTPUTS:
        a, b = (x.T if name == "lse" else x for x in (clean[name], poisoned[name]))
        assert a.isfinite().all()
        assert torch.equal(a[:start], b[:start]), name
        assert torch.equal(a[stop:], b[stop:]), name


def test_two_runs_give_the_same_bits():
    case = Case((70, 5, 33), torch.bfloat16, heads=2, rope=True)
    (dout,) = case.random(case.heads, seed=1)
    first, second = (with_gradients(ours, *case.qkv(), case, dout) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in OUTPUTS)
