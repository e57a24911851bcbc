"""What varlen_attention accepts; every ValueError begins with the argument's name."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def checked_lengths(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> list[int]:
    """Tokens of each sequence, once all tensors fit each other."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3:
            raise ValueError(f"{name}: shape {tuple(x.shape)}; accepted: [tokens, heads, head size]")
        if not x.is_floating_point():
            raise ValueError(f"{name}: dtype {x.dtype}; accepted: a floating point dtype")
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise ValueError(f"{name}: {x.dtype} on {x.device}; accepted: {q.dtype} on {q.device}, as q")
        if (x.shape[0], x.shape[2]) != (q.shape[0], q.shape[2]):
            raise ValueError(
                f"{name}: shape {tuple(x.shape)}; accepted: tokens and head size of q, {tuple(q.shape)}"
            )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"k: {k.shape[1]} heads do not divide the {q.shape[1]} heads of q")
    if v.shape != k.shape:
        raise ValueError(f"v: shape {tuple(v.shape)}; accepted: {tuple(k.shape)}, as k")
    return _sequence_lengths(cu_seqlens, max_seqlen, q)


def _sequence_lengths(cu_seqlens: Tensor, max_seqlen: int, q: Tensor) -> list[int]:
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() == 0 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens: {cu_seqlens.dtype} {tuple(cu_seqlens.shape)};"
            " accepted: int32 or int64 [sequences + 1]"
        )
    if cu_seqlens.device != q.device:
        raise ValueError(f"cu_seqlens: on {cu_seqlens.device}; accepted: {q.device}, as q")
    offsets = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(offsets)]
    if offsets[0] != 0 or offsets[-1] != q.shape[0] or min(lengths, default=0) < 0:
        raise ValueError(
            f"cu_seqlens: offsets must rise from 0 to the {q.shape[0]} tokens of q;"
            f" found {offsets[:4]} ... {offsets[-1]}"
        )
    if max_seqlen < max(lengths, default=0):
        raise ValueError(f"max_seqlen: {max_seqlen} is less than the longest sequence, {max(lengths)}")
    return lengths


def checked_window(window: int | None) -> None:
    if window is not None and window < 0:
        raise ValueError(f"window: {window}; accepted: 0 or more keys to each side, or None for all")


def checked_rope(rope: tuple[Tensor, Tensor], max_seqlen: int, q: Tensor) -> tuple[Tensor, Tensor]:
    half, odd = divmod(q.shape[2], 2)
    if odd:
        raise ValueError(f"rope: head size {q.shape[2]} is odd; halves are rotated")
    for name, table in zip(("cos", "sin"), rope, strict=True):
        if table.dim() != 2 or table.shape[0] < max_seqlen or table.shape[1] != half:
            raise ValueError(
                f"rope: {name} has shape {tuple(table.shape)}; accepted: [at least {max_seqlen}, {half}]"
            )
        if table.device != q.device:
            raise ValueError(f"rope: {name} is on {table.device}; accepted: {q.device}, as q")
    return rope
