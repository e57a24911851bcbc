"""What varlen_attention accepts; every ValueError begins with the argument's name."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
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


def check_qkv(qkv: Tensor) -> None:
    if qkv.dim() != 4 or qkv.shape[1] != 3 or not qkv.is_floating_point():
        raise ValueError(
            f"qkv: {qkv.dtype} {tuple(qkv.shape)}; accepted: floating point [tokens, 3, heads, head size]"
        )


def check_sequences(cu_seqlens: Tensor, max_seqlen: int, x: Tensor) -> None:
    """Offsets that fit the packed axis of `x`; their values are read only where that costs no wait."""
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() == 0 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens: {cu_seqlens.dtype} {tuple(cu_seqlens.shape)};"
            " accepted: int32 or int64 [sequences + 1]"
        )
    if cu_seqlens.device != x.device:
        raise ValueError(f"cu_seqlens: on {cu_seqlens.device}; accepted: {x.device}, as q")
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_offsets(cu_seqlens.tolist(), max_seqlen, x.shape[0])


def _check_offsets(offsets: list[int], max_seqlen: int, tokens: int) -> None:
    lengths = [end - start for start, end in pairwise(offsets)]
    if offsets[0] != 0 or offsets[-1] != tokens or min(lengths, default=0) < 0:
        raise ValueError(
            f"cu_seqlens: offsets must rise from 0 to the {tokens} tokens of q;"
            f" found {offsets[:4]} ... {offsets[-1]}"
        )
    if max_seqlen < max(lengths, default=0):
        raise ValueError(f"max_seqlen: {max_seqlen} is less than the longest sequence, {max(lengths)}")


def check_window(window: int | None) -> None:
    if window is not None and window < 0:
        raise ValueError(f"window: {window}; accepted: 0 or more keys to each side, or None for all")


def check_scale(scale: float) -> None:
    if not (isfinite(scale) and scale > 0):
        raise ValueError(f"scale: {scale}; accepted: a positive number")


def check_rope(rope: tuple[Tensor, Tensor], max_seqlen: int, q: Tensor) -> None:
    half, odd = divmod(q.shape[-1], 2)
    if odd:
        raise ValueError(f"rope: head size {q.shape[-1]} is odd; halves are rotated")
    for name, table in zip(("cos", "sin"), rope, strict=True):
        if table.dim() != 2 or table.shape[0] < max_seqlen or table.shape[1] != half:
            raise ValueError(
                f"rope: {name} has shape {tuple(table.shape)}; accepted: [at least {max_seqlen}, {half}]"
            )
        if table.device != q.device:
            raise ValueError(f"rope: {name} is on {table.device}; accepted: {q.device}, as q")
