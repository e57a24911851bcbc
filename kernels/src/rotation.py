"""Rotary position embedding by halves (GPT-NeoX layout)."""

from __future__ import annotations

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
