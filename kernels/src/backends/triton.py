"""Our Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem
from ..schedule import attention_schedule
from ..triton_attention.operators import attend as operator
from ..triton_attention.operators import attend_packed as packed_operator
from .packed import with_contiguous_heads


def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    out, lse = operator(*(with_contiguous_heads(x) for x in (q, k, v)), *_call(problem, q.shape[0]))
    return out, lse


def attend_packed(qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    out, lse = packed_operator(with_contiguous_heads(qkv), *_call(problem, qkv.shape[0]))
    return out, lse


def _call(p: Problem, tokens: int) -> tuple[object, ...]:
    schedule = p.schedule
    if schedule is None:
        schedule = attention_schedule(p.cu_seqlens, tokens, p.max_seqlen)
    window = -1 if p.window is None else p.window
    cos, sin = (None, None) if p.rope is None else (table.to(torch.float32).contiguous() for table in p.rope)
    return schedule, p.cu_seqlens.shape[0] - 1, p.max_seqlen, window, p.causal, p.scale, cos, sin
