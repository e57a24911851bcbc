"""Rotary embedding on its own, for calls that load each key too often to rotate it in the load."""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import load_rotated_tile, scheduled, store_tile


@triton.jit(do_not_specialize=["tokens", "max_seqlen"])
def rotate_kernel(
    x, out, cos, sin, schedule, x_token_stride, x_head_stride, out_token_stride, out_head_stride,
    tokens, max_seqlen,
    D: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Program (slot, head): a tile of x, rotated."""
    base, length, first = scheduled(schedule, tokens, max_seqlen)
    if length == 0:
        return
    head = tl.program_id(1).to(tl.int64)
    x += base * x_token_stride + head * x_head_stride
    x_MD = load_rotated_tile(x, first, length, x_token_stride, cos, sin, M, D, True)
    out += base * out_token_stride + head * out_head_stride
    store_tile(out, x_MD, first, length, out_token_stride, M, D)
