"""The rotation for CPUs beside the plain one, forward and backward."""

from __future__ import annotations

import pytest
import torch

from hwsearch.kernels.rotation import rotate, rotate_on_cpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_both_ways_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angles = torch.randn(7, 4, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    # A part of a packed q, k, v: not contiguous.
    qkv = torch.randn(7, 3, 2, 8, dtype=dtype).requires_grad_()
    weights = torch.randn(7, 2, 8, dtype=dtype)
    plain, quick = (turn(qkv[:, 1], cos, sin) for turn in (rotate, rotate_on_cpu))
    assert quick.dtype == dtype
    torch.testing.assert_close(quick, plain)
    (expected,), (found,) = (
        torch.autograd.grad((turned * weights).sum(), (qkv,)) for turned in (plain, quick)
    )
    torch.testing.assert_close(found, expected)


def test_second_derivatives() -> None:
    angles = torch.randn(3, 2, dtype=torch.float64)
    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: rotate_on_cpu(x, angles.cos(), angles.sin()) ** 2, (x,))
