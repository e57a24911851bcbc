"""The Triton kernels err at most twice as much as PyTorch's SDPA does in the same dtype, plus 1e-5.

Errors are the largest absolute difference from float64, over all tokens of a batch.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from attention_truth import DEVICE, Case, error, ours, pytorch, truth, with_gradients
from torch import Tensor

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
NAMES = ("out", "lse", "dq", "dk", "dv")

SHORT = (0, 1, 15, 16, 17, 31, 32, 33)
TILE = (63, 64, 0, 65)
OVER = (127, 1, 129)
EDGE = "window edges"

# Every pair of choices of two columns occurs.
CASES = [
    # dtype, size, (heads, key heads), window, lengths, causal, rope, scale, gradient of lse, spare
    (BF16, 128, (1, 1), 0, EDGE, False, False, None, False, 0),
    (BF16, 128, (3, 1), 1, TILE, True, True, None, True, 600),
    (BF16, 32, (2, 1), 1, EDGE, False, True, 0.3, False, 600),
    (BF16, 32, (3, 1), 64, TILE, False, False, 0.3, False, 0),
    (BF16, 32, (4, 2), 64, OVER, False, False, None, False, 0),
    (BF16, 64, (1, 1), None, SHORT, True, True, 0.3, True, 0),
    (BF16, 64, (3, 1), 5, OVER, False, False, None, True, 0),
    (FP16, 128, (1, 1), 64, SHORT, False, True, None, False, 0),
    (FP16, 128, (2, 1), None, TILE, False, False, None, False, 0),
    (FP16, 128, (4, 2), 5, EDGE, False, False, 0.3, True, 0),
    (FP16, 32, (3, 1), 0, SHORT, False, False, None, True, 600),
    (FP16, 64, (2, 1), 0, OVER, True, True, 0.3, False, 0),
    (FP16, 64, (4, 2), 1, SHORT, False, False, None, False, 0),
    (FP32, 128, (1, 1), 1, OVER, False, False, 0.3, False, 0),
    (FP32, 32, (1, 1), 5, TILE, False, False, None, False, 0),
    (FP32, 32, (1, 1), None, SHORT, False, False, None, False, 600),
    (FP32, 32, (2, 1), 5, SHORT, False, False, None, False, 0),
    (FP32, 32, (3, 1), None, EDGE, False, False, None, False, 0),
    (FP32, 32, (4, 2), 5, OVER, True, True, None, False, 600),
    (FP32, 32, (4, 2), None, OVER, False, False, None, False, 0),
    (FP32, 64, (2, 1), 64, EDGE, True, False, None, True, 600),
    (FP32, 64, (4, 2), 0, TILE, False, False, None, False, 0),
]


def window_edges(window: int | None) -> tuple[int, ...]:
    if window is None:
        return (128,)
    return (max(0, window - 1), window, window + 1, 2 * window, 2 * window + 1, 2 * window + 2, 40)


def check(q: Tensor, k: Tensor, v: Tensor, case: Case, with_dlse: bool = False) -> None:
    (dout,) = case.random(case.heads, seed=1)
    dlse = torch.randn(case.heads, case.tokens, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    loss = (dout, dlse if with_dlse else None)
    found, peer, right = (with_gradients(f, q, k, v, case, *loss) for f in (ours, pytorch, truth))
    for name in NAMES:
        assert found[name].shape == right[name].shape, name
        assert found[name].dtype == (torch.float32 if name == "lse" else case.dtype), name
        allowed = 2 * error(peer[name], right[name]) + 1e-5
        assert error(found[name], right[name]) <= allowed, name


@pytest.mark.parametrize("row", CASES, ids=lambda row: "-".join(map(str, row)))
def test_as_right_as_pytorch(row):
    dtype, size, (heads, key_heads), window, lengths, causal, rope, scale, with_dlse, spare = row
    lengths = window_edges(window) if lengths == EDGE else lengths
    case = Case(lengths, dtype, size, heads, key_heads, window, causal, scale, rope, spare)
    check(*case.qkv(), case, with_dlse)


def test_the_cases_hold_every_pair_of_choices():
    columns = list(zip(*CASES, strict=True))
    for a, b in combinations(columns, 2):
        assert len(set(zip(a, b, strict=True))) == len(set(a)) * len(set(b))


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
@pytest.mark.parametrize("window", [None, 5])
def test_large_scores(dtype, window):
    """Queries 30 times as large: scores reach some hundreds, and softmax is nearly a choice of one."""
    case = Case((70, 3), dtype, 64, window=window)
    q, k, v = case.qkv()
    q = q * 30
    assert (q[:, 0].float() @ k[:, 0].float().T).abs().max() * case.size**-0.5 > 100
    check(q, k, v, case)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_equal_scores(dtype):
    """The mean of the values in sight, wherever the tiles are cut."""
    case = Case((70, 130), dtype, window=20)
    q, k, v = case.qkv()
    check(torch.zeros_like(q), k, v, case)
    check(q, torch.ones_like(k), v, case)
