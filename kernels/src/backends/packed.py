"""Where each packed token stands, computed on the device: nothing waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem
from ..rotation import rotate, rotate_packed_on_cpu


def sequence_of_tokens(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Index of every token's sequence, int64 [T]."""
    token = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)


def token_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Position of every token within its own sequence, int64 [T]."""
    starts = cu_seqlens[sequence_of_tokens(cu_seqlens, tokens)]
    return torch.arange(tokens, device=cu_seqlens.device) - starts


def rotated(q_THD: Tensor, k_TGD: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """q and k after the rotary embedding, for kernels that have none."""
    if problem.rope is None:
        return q_THD, k_TGD
    tables = _tables_of_tokens(problem.rope, problem, q_THD.shape[0])
    return rotate(q_THD, *tables), rotate(k_TGD, *tables)


def rotated_on_cpu(qkv_T3HD: Tensor, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """q and k after the rotary embedding, and v."""
    if problem.rope is None or any(table.requires_grad for table in problem.rope):
        q, k, v = qkv_T3HD.unbind(1)
        return *rotated(q, k, problem), v
    tables = _tables_of_tokens(problem.rope, problem, qkv_T3HD.shape[0])
    return rotate_packed_on_cpu(qkv_T3HD, *tables)


def _tables_of_tokens(rope: tuple[Tensor, Tensor], problem: Problem, tokens: int) -> tuple[Tensor, Tensor]:
    """(cos, sin) of every packed token, each [T, R]."""
    positions = token_positions(problem.cu_seqlens, tokens)
    cos, sin = rope
    return cos[positions], sin[positions]


def repeated(x_TGD: Tensor, heads: int) -> Tensor:
    """Keys or values with a head for each query head, for kernels that know no groups."""
    group = heads // x_TGD.shape[1]
    return x_TGD if group == 1 else x_TGD.repeat_interleave(group, dim=1)


def with_contiguous_heads(x_THD: Tensor) -> Tensor:
    """Kernels take any stride but that of the last dimension."""
    return x_THD if x_THD.stride(-1) == 1 else x_THD.contiguous()
