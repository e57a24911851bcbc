"""Gradients of attention without atomics: one kernel owns dQ, another dK and dV, each element written once.

The scores are computed again from the log-sum-exp (Dao 2023, algorithm 2). Sequences that fit one
tile have a kernel of their own, which computes the scores once for all three gradients. Shape
suffixes: M queries, N keys, D head size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    load_rotated_tile,
    load_tile,
    other_side,
    product,
    rounded,
    scheduled,
    store_tile,
    unrotated,
    visible,
)

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["tokens"])
def delta_kernel(
    out, dout, dlse, delta, tokens,
    out_token_stride, out_head_stride, dout_token_stride, dout_head_stride,
    D: tl.constexpr, M: tl.constexpr, HAS_DLSE: tl.constexpr,
):  # fmt: skip
    """Program (block, head): delta [H, T] = sum over D of out * dout, less the gradient of lse."""
    head = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * M
    rows_M = first + tl.arange(0, M)
    out_MD = load_tile(out + head * out_head_stride, first, tokens, out_token_stride, M, D, True)
    dout_MD = load_tile(dout + head * dout_head_stride, first, tokens, dout_token_stride, M, D, True)
    delta_M = tl.sum(out_MD.to(tl.float32) * dout_MD.to(tl.float32), 1)
    at_M = head * tokens + rows_M
    if HAS_DLSE:
        delta_M -= tl.load(dlse + at_M, mask=rows_M < tokens, other=0.0)
    tl.store(delta + at_M, delta_M, mask=rows_M < tokens)


@triton.jit(do_not_specialize=["tokens", "max_seqlen", "window"])
def dq_kernel(
    q, k, v, dout, lse, delta, dq, cos, sin, schedule,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    dout_token_stride, dout_head_stride, dq_token_stride, dq_head_stride, tokens,
    max_seqlen, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    LOCAL: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, ROTATE: tl.constexpr,
    UNROTATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (slot, query head): dQ of a tile of queries."""
    base, length, first = scheduled(schedule, tokens, max_seqlen)
    if length == 0:
        return
    head = tl.program_id(1).to(tl.int64)
    q += base * q_token_stride + head * q_head_stride
    k += base * k_token_stride + head // GROUP * k_head_stride
    v += base * v_token_stride + head // GROUP * v_head_stride
    dout += base * dout_token_stride + head * dout_head_stride
    rows_M = first + tl.arange(0, M)
    if ROTATE:
        q_MD = load_rotated_tile(q, first, length, q_token_stride, cos, sin, M, D, True)
    else:
        q_MD = load_tile(q, first, length, q_token_stride, M, D, True)
    dout_MD = load_tile(dout, first, length, dout_token_stride, M, D, True)
    at_M = head * tokens + base + rows_M
    lse2_M = tl.load(lse + at_M, mask=rows_M < length, other=float("inf")) * LOG2E
    delta_M = tl.load(delta + at_M, mask=rows_M < length, other=0.0)
    start, full_start, full_stop, stop = other_side(first, length, window, M, N, LOCAL, True, not CAUSAL)

    dq_MD = tl.zeros((M, D), tl.float32)
    if LOCAL and SPLIT:
        dq_MD = _dq_from_keys(
            dq_MD, q_MD, dout_MD, lse2_M, delta_M, rows_M, k, v, cos, sin, start, full_start, length,
            k_token_stride, v_token_stride, scale, window, D, N, LOCAL, CAUSAL, ROTATE, True, PRECISION,
        )  # fmt: skip
    if SPLIT:
        dq_MD = _dq_from_keys(
            dq_MD, q_MD, dout_MD, lse2_M, delta_M, rows_M, k, v, cos, sin, full_start, full_stop, length,
            k_token_stride, v_token_stride, scale, window, D, N, LOCAL, CAUSAL, ROTATE, False, PRECISION,
        )  # fmt: skip
        start = full_stop
    dq_MD = _dq_from_keys(
        dq_MD, q_MD, dout_MD, lse2_M, delta_M, rows_M, k, v, cos, sin, start, stop, length,
        k_token_stride, v_token_stride, scale, window, D, N, LOCAL, CAUSAL, ROTATE, True, PRECISION,
    )  # fmt: skip
    dq_MD *= scale
    if UNROTATE:
        dq_MD = unrotated(dq_MD, first, length, cos, sin, M, D)
    store_tile(
        dq + base * dq_token_stride + head * dq_head_stride, dq_MD, first, length, dq_token_stride, M, D
    )


@triton.jit
def _dq_from_keys(
    dq_MD, q_MD, dout_MD, lse2_M, delta_M, rows_M, k, v, cos, sin, start, stop, length,
    k_token_stride, v_token_stride, scale, window,
    D: tl.constexpr, N: tl.constexpr, LOCAL: tl.constexpr, CAUSAL: tl.constexpr,
    ROTATE: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for first_key in tl.range(start, stop, N):
        keys_N = first_key + tl.arange(0, N)
        if ROTATE:
            k_ND = load_rotated_tile(k, first_key, length, k_token_stride, cos, sin, N, D, MASKED)
        else:
            k_ND = load_tile(k, first_key, length, k_token_stride, N, D, MASKED)
        v_ND = load_tile(v, first_key, length, v_token_stride, N, D, MASKED)
        scores_MN = product(q_MD, k_ND.T, None, PRECISION) * (scale * LOG2E)
        if MASKED:
            seen_MN = visible(rows_M[:, None], keys_N[None, :], length, window, LOCAL, CAUSAL)
            scores_MN = tl.where(seen_MN, scores_MN, float("-inf"))
        p_MN = tl.exp2(scores_MN - lse2_M[:, None])
        dp_MN = product(dout_MD, v_ND.T, None, PRECISION)
        ds_MN = p_MN * (dp_MN - delta_M[:, None])
        dq_MD = product(rounded(ds_MN, k_ND.dtype), k_ND, dq_MD, PRECISION)
    return dq_MD


@triton.jit(do_not_specialize=["tokens", "max_seqlen", "window"])
def dkdv_kernel(
    q, k, v, dout, lse, delta, dk, dv, cos, sin, schedule,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    dout_token_stride, dout_head_stride, dk_token_stride, dk_head_stride, dv_token_stride, dv_head_stride,
    tokens, max_seqlen, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    LOCAL: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, ROTATE: tl.constexpr,
    UNROTATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (slot, key head): dK and dV of a tile of N keys, from all query heads that share them."""
    base, length, first = scheduled(schedule, tokens, max_seqlen)
    if length == 0:
        return
    key_head = tl.program_id(1).to(tl.int64)
    k += base * k_token_stride + key_head * k_head_stride
    v += base * v_token_stride + key_head * v_head_stride
    keys_N = first + tl.arange(0, N)
    if ROTATE:
        k_ND = load_rotated_tile(k, first, length, k_token_stride, cos, sin, N, D, True)
    else:
        k_ND = load_tile(k, first, length, k_token_stride, N, D, True)
    v_ND = load_tile(v, first, length, v_token_stride, N, D, True)
    start, full_start, full_stop, stop = other_side(first, length, window, N, M, LOCAL, not CAUSAL, True)
    last_start = full_stop if SPLIT else start

    dk_ND = tl.zeros((N, D), tl.float32)
    dv_ND = tl.zeros((N, D), tl.float32)
    # Bounds that are known: a single head needs no loop.
    for member in range(GROUP):
        head = key_head * GROUP + member
        q_h = q + base * q_token_stride + head * q_head_stride
        dout_h = dout + base * dout_token_stride + head * dout_head_stride
        lse_h = lse + head * tokens + base
        delta_h = delta + head * tokens + base
        if (LOCAL or CAUSAL) and SPLIT:
            dk_ND, dv_ND = _dkdv_from_queries(
                dk_ND, dv_ND, k_ND, v_ND, keys_N, q_h, dout_h, lse_h, delta_h, cos, sin, start, full_start,
                length, q_token_stride, dout_token_stride, scale, window,
                D, M, LOCAL, CAUSAL, ROTATE, True, PRECISION,
            )  # fmt: skip
        if SPLIT:
            dk_ND, dv_ND = _dkdv_from_queries(
                dk_ND, dv_ND, k_ND, v_ND, keys_N, q_h, dout_h, lse_h, delta_h, cos, sin,
                full_start, full_stop, length, q_token_stride, dout_token_stride, scale, window,
                D, M, LOCAL, CAUSAL, ROTATE, False, PRECISION,
            )  # fmt: skip
        dk_ND, dv_ND = _dkdv_from_queries(
            dk_ND, dv_ND, k_ND, v_ND, keys_N, q_h, dout_h, lse_h, delta_h, cos, sin, last_start, stop,
            length, q_token_stride, dout_token_stride, scale, window,
            D, M, LOCAL, CAUSAL, ROTATE, True, PRECISION,
        )  # fmt: skip
    dk_ND *= scale
    if UNROTATE:
        dk_ND = unrotated(dk_ND, first, length, cos, sin, N, D)
    dk += base * dk_token_stride + key_head * dk_head_stride
    store_tile(dk, dk_ND, first, length, dk_token_stride, N, D)
    dv += base * dv_token_stride + key_head * dv_head_stride
    store_tile(dv, dv_ND, first, length, dv_token_stride, N, D)


@triton.jit
def _dkdv_from_queries(
    dk_ND, dv_ND, k_ND, v_ND, keys_N, q, dout, lse, delta, cos, sin, start, stop,
    length, q_token_stride, dout_token_stride, scale, window,
    D: tl.constexpr, M: tl.constexpr, LOCAL: tl.constexpr, CAUSAL: tl.constexpr,
    ROTATE: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for first_query in tl.range(start, stop, M):
        rows_M = first_query + tl.arange(0, M)
        if ROTATE:
            q_MD = load_rotated_tile(q, first_query, length, q_token_stride, cos, sin, M, D, MASKED)
        else:
            q_MD = load_tile(q, first_query, length, q_token_stride, M, D, MASKED)
        dout_MD = load_tile(dout, first_query, length, dout_token_stride, M, D, MASKED)
        if MASKED:
            # Queries beyond the end: p = 0.
            lse2_M = tl.load(lse + rows_M, mask=rows_M < length, other=float("inf")) * LOG2E
            delta_M = tl.load(delta + rows_M, mask=rows_M < length, other=0.0)
        else:
            lse2_M = tl.load(lse + rows_M) * LOG2E
            delta_M = tl.load(delta + rows_M)
        scores_NM = product(k_ND, q_MD.T, None, PRECISION) * (scale * LOG2E)
        if MASKED:
            seen_NM = visible(rows_M[None, :], keys_N[:, None], length, window, LOCAL, CAUSAL)
            scores_NM = tl.where(seen_NM, scores_NM, float("-inf"))
        p_NM = tl.exp2(scores_NM - lse2_M[None, :])
        dv_ND = product(rounded(p_NM, dout_MD.dtype), dout_MD, dv_ND, PRECISION)
        dp_NM = product(v_ND, dout_MD.T, None, PRECISION)
        ds_NM = p_NM * (dp_NM - delta_M[None, :])
        dk_ND = product(rounded(ds_NM, q_MD.dtype), q_MD, dk_ND, PRECISION)
    return dk_ND, dv_ND


@triton.jit(do_not_specialize=["tokens", "max_seqlen", "window"])
def short_backward_kernel(
    q, k, v, out, dout, lse, dlse, dq, dk, dv, cos, sin, schedule,
    q_token_stride, q_head_stride, k_token_stride, k_head_stride, v_token_stride, v_head_stride,
    out_token_stride, out_head_stride, dout_token_stride, dout_head_stride,
    dq_token_stride, dq_head_stride, dk_token_stride, dk_head_stride, dv_token_stride, dv_head_stride,
    tokens, max_seqlen, scale, window,
    GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    LOCAL: tl.constexpr, CAUSAL: tl.constexpr, ROTATE: tl.constexpr, UNROTATE: tl.constexpr,
    HAS_DLSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (slot, key head): all three gradients of a sequence of at most M tokens, in one pass."""
    base, length, first = scheduled(schedule, tokens, max_seqlen)
    if length == 0:
        return
    key_head = tl.program_id(1).to(tl.int64)
    rows_M = first + tl.arange(0, M)
    k += base * k_token_stride + key_head * k_head_stride
    v += base * v_token_stride + key_head * v_head_stride
    if ROTATE:
        k_ND = load_rotated_tile(k, first, length, k_token_stride, cos, sin, M, D, True)
    else:
        k_ND = load_tile(k, first, length, k_token_stride, M, D, True)
    v_ND = load_tile(v, first, length, v_token_stride, M, D, True)
    dk_ND = tl.zeros((M, D), tl.float32)
    dv_ND = tl.zeros((M, D), tl.float32)
    for member in range(GROUP):
        head = key_head * GROUP + member
        q_h = q + base * q_token_stride + head * q_head_stride
        if ROTATE:
            q_MD = load_rotated_tile(q_h, first, length, q_token_stride, cos, sin, M, D, True)
        else:
            q_MD = load_tile(q_h, first, length, q_token_stride, M, D, True)
        dout_h = dout + base * dout_token_stride + head * dout_head_stride
        dout_MD = load_tile(dout_h, first, length, dout_token_stride, M, D, True)
        out_h = out + base * out_token_stride + head * out_head_stride
        out_MD = load_tile(out_h, first, length, out_token_stride, M, D, True)
        delta_M = tl.sum(out_MD.to(tl.float32) * dout_MD.to(tl.float32), 1)
        at_M = head * tokens + base + rows_M
        if HAS_DLSE:
            delta_M -= tl.load(dlse + at_M, mask=rows_M < length, other=0.0)
        # Queries beyond the end: p = 0.
        lse2_M = tl.load(lse + at_M, mask=rows_M < length, other=float("inf")) * LOG2E
        # Keys by queries: two of the three gradients then need no transposition, and keys stay in registers.
        scores_NM = product(k_ND, q_MD.T, None, PRECISION) * (scale * LOG2E)
        seen_NM = visible(rows_M[None, :], rows_M[:, None], length, window, LOCAL, CAUSAL)
        scores_NM = tl.where(seen_NM, scores_NM, float("-inf"))
        p_NM = tl.exp2(scores_NM - lse2_M[None, :])
        dv_ND = product(rounded(p_NM, dout_MD.dtype), dout_MD, dv_ND, PRECISION)
        dp_NM = product(v_ND, dout_MD.T, None, PRECISION)
        ds_NM = rounded(p_NM * (dp_NM - delta_M[None, :]), q_MD.dtype)
        dk_ND = product(ds_NM, q_MD, dk_ND, PRECISION)
        dq_MD = product(ds_NM.T, k_ND, None, PRECISION) * scale
        if UNROTATE:
            dq_MD = unrotated(dq_MD, first, length, cos, sin, M, D)
        dq_h = dq + base * dq_token_stride + head * dq_head_stride
        store_tile(dq_h, dq_MD, first, length, dq_token_stride, M, D)
    dk_ND *= scale
    if UNROTATE:
        dk_ND = unrotated(dk_ND, first, length, cos, sin, M, D)
    dk += base * dk_token_stride + key_head * dk_head_stride
    store_tile(dk, dk_ND, first, length, dk_token_stride, M, D)
    dv += base * dv_token_stride + key_head * dv_head_stride
    store_tile(dv, dv_ND, first, length, dv_token_stride, M, D)
