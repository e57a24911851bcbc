"""Rotary position embedding by halves (GPT-NeoX layout)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotate(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the pairs (x[d], x[d + D/2]) by the angle of their position; R = D/2.

    (a, b) -> (a cos - b sin, b cos + a sin), in float32 at least, returned in x's dtype.
    """
    precise = torch.promote_types(x_THD.dtype, torch.float32)
    a, b = x_THD.to(precise).chunk(2, dim=-1)
    cos, sin = cos_TR.to(precise)[:, None], sin_TR.to(precise)[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x_THD.dtype)


def rotate_on_cpu(x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """`rotate`, with fewer passes over memory; no gradient by the angles."""
    turned: Tensor = _Rotation.apply(x_THD, cos_TR, sin_TR)  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    """The gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TR, sin_TR)
        precise = torch.promote_types(x_THD.dtype, torch.float32)
        cos, sin = cos_TR.to(precise)[:, None], sin_TR.to(precise)[:, None]
        x = x_THD.to(precise)
        out_THD = x * torch.cat((cos, cos), dim=-1)
        (a, b), (first, second) = x.chunk(2, dim=-1), out_THD.chunk(2, dim=-1)
        first.addcmul_(b, sin, value=-1)
        second.addcmul_(a, sin)
        return out_THD.to(x_THD.dtype)

    @staticmethod
    def backward(ctx: Any, dx_THD: Tensor) -> tuple[Tensor, None, None]:
        cos_TR, sin_TR = ctx.saved_tensors
        return rotate_on_cpu(dx_THD, cos_TR, -sin_TR), None, None
