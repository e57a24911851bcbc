"""Plain torch on any device: no padding is computed, and little outside of the windows."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..problem import Problem
from ..rotation import rotate
from .band import band_attention, band_scores
from .by_length import attention_by_length


def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, None]:
    lengths = [end - start for start, end in pairwise(problem.cu_seqlens.tolist())]
    if q.shape[0] == 0:
        return torch.zeros_like(q), None
    if problem.rope is not None:
        positions = token_positions(lengths, q.device)
        cos_TR, sin_TR = (table[positions] for table in problem.rope)
        q, k = (rotate(x, cos_TR, sin_TR) for x in (q, k))
    window, causal, scale = problem.window, problem.causal, problem.scale
    if window is not None:
        window = min(window, max(lengths) - 1)
        if band_scores(lengths, window) < sum(s * s for s in lengths):
            return band_attention(q, k, v, lengths, window, causal=causal, scale=scale), None
    return attention_by_length(q, k, v, lengths, window, causal=causal, scale=scale), None


def attend_packed(qkv: Tensor, problem: Problem) -> tuple[Tensor, None]:
    q, k, v = qkv.unbind(1)
    return attend(q, k, v, problem)


def token_positions(lengths: list[int], device: torch.device) -> Tensor:
    """Position of every packed token within its own sequence, int64 [T]."""
    sizes = torch.tensor(lengths, device=device)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(sum(lengths), device=device) - starts.repeat_interleave(sizes)
