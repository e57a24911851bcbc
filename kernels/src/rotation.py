"""Rotary position embedding by halves (GPT-NeoX layout)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the pairs (x[d], x[d + D/2]) by the angle of their position; R = D/2.

    (a, b) -> (a cos - b sin, b cos + a sin), in float32 at least, returned in x's dtype.
    """
    precise = torch.promote_types(x_THD.dtype, torch.float32)
    a, b = x_THD.to(precise).chunk(2, dim=-1)
    cos, sin = cos_TR.to(precise)[:, None], sin_TR.to(precise)[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_THD.dtype)


def rotate_packed_on_cpu(qkv_T3HD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q and k as `rotate` turns them, and v, with fewer passes over memory; no gradient by the angles."""
    q_THD, k_THD, v_THD = _PackedRotation.apply(qkv_T3HD, cos_TR, sin_TR)  # type: ignore[no-untyped-call]
    return q_THD, k_THD, v_THD


class _PackedRotation(torch.autograd.Function):
    """Gradients of q and k are turned back by the same angles, and the three written side by side."""

    @staticmethod
    def forward(ctx: Any, qkv_T3HD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos_TR, sin_TR)
        qk_T2HD = qkv_T3HD[:, :2]
        turned_T2HD = torch.empty_like(qk_T2HD)
        # At once is faster, but rounded ones are first turned in float32: one after the other holds less.
        parts = 1 if qkv_T3HD.dtype.itemsize >= torch.float32.itemsize else 2
        for x, out in zip(qk_T2HD.chunk(parts, 1), turned_T2HD.chunk(parts, 1), strict=True):
            _turn(x, cos_TR[:, None, None], sin_TR[:, None, None], out)
        return turned_T2HD[:, 0], turned_T2HD[:, 1], qkv_T3HD[:, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_THD: Tensor, dk_THD: Tensor, dv_THD: Tensor) -> tuple[Tensor, None, None]:
        cos_TR, sin_TR = ctx.saved_tensors
        tokens, *sizes = dv_THD.shape
        dqkv_T3HD = dv_THD.new_empty(tokens, 3, *sizes)
        for place, dx_THD in enumerate((dq_THD, dk_THD)):
            _turn(dx_THD, cos_TR[:, None], -sin_TR[:, None], dqkv_T3HD[:, place])
        dqkv_T3HD[:, 2] = dv_THD
        return dqkv_T3HD, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """`rotate` of x [T, ..., D] by tables [T, 1 ..., D/2], written to `out`."""
    precise = torch.promote_types(x.dtype, torch.float32)
    cos, sin, x = cos.to(precise), sin.to(precise), x.to(precise)
    turned = out if out.dtype == precise else torch.empty_like(x)
    torch.mul(x, torch.cat((cos, cos), dim=-1), out=turned)
    (a, b), (first, second) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    first.addcmul_(b, sin, value=-1)
    second.addcmul_(a, sin)
    if turned is not out:
        out.copy_(turned)
