"""PyTorch's scaled_dot_product_attention, once for each length. It reads the lengths on the host."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..problem import Problem
from .by_length import attention_by_length, log_sum_exp_by_length
from .log_sum_exp import with_gradient
from .packed import rotated


# Traced, it would be built again for every batch: the lengths are read on the host.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    lengths = [end - start for start, end in pairwise(problem.cu_seqlens.tolist())]
    q, k = rotated(q, k, problem)
    return by_length(q, k, v, problem, lengths)


def by_length(
    q: Tensor, k: Tensor, v: Tensor, p: Problem, lengths: list[int]
) -> tuple[Tensor, Tensor | None]:
    """Of q and k that are rotated already."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_by_length(q, k, v, lengths, p.window, causal=p.causal, scale=p.scale)

    out = attention(q, k, v)
    if not p.return_lse:
        return out, None
    lse = log_sum_exp_by_length(q, k, lengths, p.window, causal=p.causal, scale=p.scale)
    return out, with_gradient(lse, attention, q, k, p.scale)
