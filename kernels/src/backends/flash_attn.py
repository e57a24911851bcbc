"""The optional package flash-attn: FlashAttention-2, with a deterministic backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem
from .log_sum_exp import with_gradient
from .packed import rotated, with_contiguous_heads


def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    q, k = rotated(q, k, problem)
    q, k, v = (with_contiguous_heads(x) for x in (q, k, v))
    if not problem.return_lse:
        return _attention(q, k, v, problem), None
    out, lse, _ = _attention(q, k, v, problem, return_attn_probs=True)

    return out, with_gradient(lse, lambda q, k, v: _attention(q, k, v, problem), q, k, problem.scale)


def _attention(q: Tensor, k: Tensor, v: Tensor, p: Problem, **options: Any) -> Any:
    from flash_attn import flash_attn_varlen_func

    offsets = p.cu_seqlens.to(torch.int32).contiguous()
    # It turns off a window as wide as max_seqlen, which hides nothing.
    left, right = (-1, -1) if p.window is None else (p.window, p.window)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        offsets,
        offsets,
        p.max_seqlen,
        p.max_seqlen,
        softmax_scale=p.scale,
        causal=p.causal,
        window_size=(left, 0 if p.causal else right),
        deterministic=True,
        **options,
    )
