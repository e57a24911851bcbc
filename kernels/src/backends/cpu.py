"""Plain torch for CPUs: no padding is computed, and little outside of the windows."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..problem import Problem
from . import sdpa
from .band import band_attention, band_log_sum_exp, band_scores
from .log_sum_exp import with_gradient
from .packed import rotated, rotated_on_cpu


# Traced, it would be built again for every batch: the lengths are read on the host.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    return _of_rotated(*rotated(q, k, problem), v, problem)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend_packed(qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    return _of_rotated(*rotated_on_cpu(qkv, problem), problem)


def _of_rotated(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    lengths = [end - start for start, end in pairwise(problem.cu_seqlens.tolist())]
    if problem.window is None:
        return sdpa.by_length(q, k, v, problem, lengths)
    window = min(problem.window, max(lengths) - 1)
    if band_scores(lengths, window) >= sum(s * s for s in lengths):
        return sdpa.by_length(q, k, v, problem, lengths)
    return along_the_band(q, k, v, problem, window)


def along_the_band(q: Tensor, k: Tensor, v: Tensor, p: Problem, window: int) -> tuple[Tensor, Tensor | None]:
    """Of q and k that are rotated already; `window` at most the longest sequence."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return band_attention(q, k, v, p.cu_seqlens, window, causal=p.causal, scale=p.scale)

    out = attention(q, k, v)
    if not p.return_lse:
        return out, None
    lse = band_log_sum_exp(q, k, p.cu_seqlens, window, causal=p.causal, scale=p.scale)
    return out, with_gradient(lse, attention, q, k, p.scale)
