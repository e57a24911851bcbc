"""What varlen_attention accepts; every ValueError begins with the argument's name."""

from __future__ import annotations

import math
from itertools import pairwise
from operator import index
from typing import Any

import torch
from torch import Tensor

from .schedule import check_offsets_tensor, slot_count
from .triton_attention.configs import TILE_SIZES

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
# Largest max_seqlen and window: kernels add the two in 32 bits.
MOST = 2**30 - 1
_ACCEPTED_DTYPES = "float16, bfloat16, float32 or float64"


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x)
        if x.dim() != 3:
            raise ValueError(f"{name}: shape {tuple(x.shape)}; accepted: [tokens, heads, head size]")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: dtype {x.dtype}; accepted: {_ACCEPTED_DTYPES}")
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise ValueError(f"{name}: {x.dtype} on {x.device}; accepted: {q.dtype} on {q.device}, as q")
        if (x.shape[0], x.shape[2]) != (q.shape[0], q.shape[2]):
            raise ValueError(
                f"{name}: shape {tuple(x.shape)}; accepted: tokens and head size of q, {tuple(q.shape)}"
            )
    if q.shape[1] == 0 or q.shape[2] == 0:
        raise ValueError(f"q: shape {tuple(q.shape)}; accepted: at least one head, of size 1 or more")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"k: {k.shape[1]} heads do not divide the {q.shape[1]} heads of q")
    if v.shape != k.shape:
        raise ValueError(f"v: shape {tuple(v.shape)}; accepted: {tuple(k.shape)}, as k")


def check_qkv(qkv: Tensor) -> None:
    _check_tensor("qkv", qkv)
    if qkv.dim() != 4 or qkv.shape[1] != 3 or 0 in qkv.shape[2:]:
        raise ValueError(f"qkv: shape {tuple(qkv.shape)}; accepted: [tokens, 3, heads, head size]")
    if qkv.dtype not in DTYPES:
        raise ValueError(f"qkv: dtype {qkv.dtype}; accepted: {_ACCEPTED_DTYPES}")


def check_sequences(cu_seqlens: Tensor, max_seqlen: int, x: Tensor) -> None:
    """Offsets that fit the packed axis of `x`; their values are read only where that costs no wait."""
    _check_tensor("cu_seqlens", cu_seqlens)
    check_offsets_tensor(cu_seqlens)
    if cu_seqlens.device != x.device:
        raise ValueError(f"cu_seqlens: on {cu_seqlens.device}; accepted: {x.device}, as q")
    if _readable(cu_seqlens):
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


def assert_offsets(cu_seqlens: Tensor, max_seqlen: int, tokens: int) -> None:
    """Have the device check what `check_sequences` could not read."""
    if _readable(cu_seqlens):
        return
    lengths = cu_seqlens.diff()
    right = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == tokens)
    right = right & ((lengths >= 0) & (lengths <= max_seqlen)).all()
    torch._assert_async(right, "cu_seqlens: must rise from 0 to T, by at most max_seqlen")


def _readable(cu_seqlens: Tensor) -> bool:
    return cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling()


def check_schedule(schedule: Tensor, cu_seqlens: Tensor, tokens: int) -> None:
    _check_tensor("schedule", schedule)
    shape = (len(TILE_SIZES), slot_count(cu_seqlens.shape[0] - 1, tokens), 3)
    if schedule.dtype != torch.int32 or schedule.shape != shape or not schedule.is_contiguous():
        raise ValueError(
            f"schedule: {schedule.dtype} {tuple(schedule.shape)};"
            f" accepted: attention_schedule(cu_seqlens, {tokens}, max_seqlen), contiguous int32 {shape}"
        )
    if schedule.device != cu_seqlens.device:
        raise ValueError(f"schedule: on {schedule.device}; accepted: {cu_seqlens.device}, as cu_seqlens")


def max_seqlen_of(max_seqlen: Any) -> int:
    number = _integer("max_seqlen", max_seqlen)
    if not 0 <= number <= MOST:
        raise ValueError(f"max_seqlen: {number}; accepted: 0 to {MOST}")
    return number


def window_of(window: Any) -> int | None:
    if window is None:
        return None
    number = _integer("window", window)
    if number < 0:
        raise ValueError(f"window: {number}; accepted: 0 or more keys to each side, or None for all")
    return min(number, MOST)


def scale_of(scale: Any, head_size: int) -> float:
    if scale is None:
        return 1 / math.sqrt(head_size)
    if isinstance(scale, (bool, str, Tensor)):
        raise ValueError(f"scale: {_found(scale)}; accepted: a positive number")
    try:
        number = float(scale)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 < number < math.inf:
        raise ValueError(f"scale: {scale}; accepted: a positive number")
    return number


def check_flag(name: str, flag: Any) -> None:
    if not isinstance(flag, bool):
        raise ValueError(f"{name}: {_found(flag)}; accepted: True or False")


def check_rope(rope: Any, max_seqlen: int, q: Tensor) -> None:
    if not isinstance(rope, (tuple, list)) or len(rope) != 2:
        raise ValueError(f"rope: {_found(rope)}; accepted: a pair of tensors (cos, sin)")
    half = q.shape[-1] // 2
    if q.shape[-1] % 2:
        raise ValueError(f"rope: head size {q.shape[-1]} is odd; halves are rotated")
    for name, table in (("cos", rope[0]), ("sin", rope[1])):
        if not isinstance(table, Tensor):
            raise ValueError(f"rope: {name} is {_found(table)}; accepted: a pair of tensors (cos, sin)")
        if table.dim() != 2 or table.shape[0] < max_seqlen or table.shape[1] != half:
            raise ValueError(
                f"rope: {name} has shape {tuple(table.shape)}; accepted: [at least {max_seqlen}, {half}]"
            )
        if table.device != q.device:
            raise ValueError(f"rope: {name} is on {table.device}; accepted: {q.device}, as q")
        if table.dtype not in DTYPES:
            raise ValueError(f"rope: {name} is {table.dtype}; accepted: {_ACCEPTED_DTYPES}")


def _integer(name: str, x: Any) -> int:
    """`x` as an int; a tensor is none, since reading it waits for the device."""
    if isinstance(x, int) and not isinstance(x, bool):
        return x
    if isinstance(x, (bool, Tensor)):
        raise ValueError(f"{name}: {_found(x)}; accepted: an integer")
    try:
        return index(x)
    except TypeError:
        raise ValueError(f"{name}: {_found(x)}; accepted: an integer") from None


def _check_tensor(name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: {_found(x)}; accepted: a tensor")


def _found(x: Any) -> str:
    return f"a {type(x).__name__}" if isinstance(x, (Tensor, tuple, list, dict)) else repr(x)
