"""The rotation for CPUs beside the plain one, forward and backward."""

from __future__ import annotations

import pytest
import torch

from hwsearch.kernels.rotation import rotate, rotate_packed_on_cpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_both_ways_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angles = torch.randn(7, 4, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    # A part of a wider tensor: not contiguous.
    qkv = torch.randn(7, 4, 2, 8, dtype=dtype)[:, 1:].requires_grad_()
    weights = torch.randn(3, 7, 2, 8, dtype=dtype)
    q, k, v = qkv.unbind(1)
    plain = (rotate(q, cos, sin), rotate(k, cos, sin), v)
    quick = rotate_packed_on_cpu(qkv, cos, sin)
    for found, expected in zip(quick, plain, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected)
    (expected,), (found,) = (
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(turned, weights, strict=True)), (qkv,))
        for turned in (plain, quick)
    )
    torch.testing.assert_close(found, expected)


def test_a_gradient_that_nobody_asked_for_is_nothing() -> None:
    angles = torch.randn(5, 2, dtype=torch.float64)
    qkv = torch.randn(5, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    k = rotate_packed_on_cpu(qkv, angles.cos(), angles.sin())[1]
    (found,) = torch.autograd.grad(k.sum(), (qkv,))
    assert (found[:, [0, 2]] == 0).all() and (found[:, 1] != 0).all()


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    angles = torch.randn(3, 2, dtype=torch.float64)
    qkv = torch.randn(3, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    q, _, _ = rotate_packed_on_cpu(qkv, angles.cos(), angles.sin())
    (first,) = torch.autograd.grad((q**2).sum(), (qkv,), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
