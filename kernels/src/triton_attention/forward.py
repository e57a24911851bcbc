"""Attention of one tile of queries of one sequence and head, by online softmax.

FlashAttention-2's loop (Dao 2023, algorithm 1) over the keys in sight, in base 2. Shape suffixes:
M queries of a tile, N keys of a block, D head size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import load_rotated_tile, load_tile, other_side, product, rounded, scheduled, store_tile, visible

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["tokens", "max_seqlen", "window"])
def forward_kernel(
    q, k, v, out, lse, cos, sin, schedule,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    out_token_stride, tokens, max_seqlen, scale_log2, window,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    LOCAL: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, ROTATE_Q: tl.constexpr,
    ROTATE_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (slot, query head). GROUP query heads share a key head; scale_log2 = scale * log2(e).

    lse is [H, tokens].
    SPLIT: blocks that need no mask have a loop of their own. Without it all are masked, in one loop,
    whose loads run ahead; three loops of one block each would wait for memory three times.
    """
    base, length, first = scheduled(schedule, tokens, max_seqlen)
    if length == 0:
        return
    head = tl.program_id(1).to(tl.int64)
    q += base * q_token_stride + head * q_head_stride
    k += base * k_token_stride + head // GROUP * k_head_stride
    v += base * v_token_stride + head // GROUP * v_head_stride
    rows_M = first + tl.arange(0, M)
    if ROTATE_Q:
        q_MD = load_rotated_tile(q, first, length, q_token_stride, cos, sin, M, D, True)
    else:
        q_MD = load_tile(q, first, length, q_token_stride, M, D, True)
    start, full_start, full_stop, stop = other_side(first, length, window, M, N, LOCAL, True, not CAUSAL)

    acc_MD = tl.zeros((M, D), tl.float32)
    sum_M = tl.zeros((M,), tl.float32)
    max_M = tl.full((M,), float("-inf"), tl.float32)
    if LOCAL and SPLIT:
        acc_MD, sum_M, max_M = _attend(
            acc_MD, sum_M, max_M, q_MD, rows_M, k, v, cos, sin, start, full_start, length,
            k_token_stride, v_token_stride, scale_log2, window,
            D, N, LOCAL, CAUSAL, ROTATE_K, True, PRECISION,
        )  # fmt: skip
    if SPLIT:
        acc_MD, sum_M, max_M = _attend(
            acc_MD, sum_M, max_M, q_MD, rows_M, k, v, cos, sin, full_start, full_stop, length,
            k_token_stride, v_token_stride, scale_log2, window,
            D, N, LOCAL, CAUSAL, ROTATE_K, False, PRECISION,
        )  # fmt: skip
        start = full_stop
    acc_MD, sum_M, max_M = _attend(
        acc_MD, sum_M, max_M, q_MD, rows_M, k, v, cos, sin, start, stop, length,
        k_token_stride, v_token_stride, scale_log2, window, D, N, LOCAL, CAUSAL, ROTATE_K, True, PRECISION,
    )  # fmt: skip

    # Rows beyond the end may have seen no key.
    sum_M = tl.where(rows_M < length, sum_M, 1.0)
    out += base * out_token_stride + head * D
    store_tile(out, acc_MD / sum_M[:, None], first, length, out_token_stride, M, D)
    lse_M = (max_M * scale_log2 + tl.log2(sum_M)) * LN2
    tl.store(lse + head * tokens + base + rows_M, lse_M, mask=rows_M < length)


@triton.jit
def _attend(
    acc_MD, sum_M, max_M, q_MD, rows_M, k, v, cos, sin, start, stop, length,
    k_token_stride, v_token_stride, scale_log2, window,
    D: tl.constexpr, N: tl.constexpr, LOCAL: tl.constexpr, CAUSAL: tl.constexpr,
    ROTATE_K: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The accumulators after the keys from start to stop; max_M is of the scores before scaling."""
    for first_key in tl.range(start, stop, N):
        keys_N = first_key + tl.arange(0, N)
        if ROTATE_K:
            k_ND = load_rotated_tile(k, first_key, length, k_token_stride, cos, sin, N, D, MASKED)
        else:
            k_ND = load_tile(k, first_key, length, k_token_stride, N, D, MASKED)
        scores_MN = product(q_MD, k_ND.T, None, PRECISION)
        if MASKED:
            seen_MN = visible(rows_M[:, None], keys_N[None, :], length, window, LOCAL, CAUSAL)
            scores_MN = tl.where(seen_MN, scores_MN, float("-inf"))
        new_max_M = tl.maximum(max_M, tl.max(scores_MN, 1))
        shift_M = new_max_M * scale_log2
        if MASKED:
            # A row that has seen no key yet: -inf less -inf would be NaN.
            shift_M = tl.where(new_max_M == float("-inf"), 0.0, shift_M)
        p_MN = tl.exp2(scores_MN * scale_log2 - shift_M[:, None])
        keep_M = tl.exp2(max_M * scale_log2 - shift_M)
        sum_M = sum_M * keep_M + tl.sum(p_MN, 1)
        acc_MD = acc_MD * keep_M[:, None]
        v_ND = load_tile(v, first_key, length, v_token_stride, N, D, MASKED)
        acc_MD = product(rounded(p_MN, v_ND.dtype), v_ND, acc_MD, PRECISION)
        max_M = new_max_M
    return acc_MD, sum_M, max_M
