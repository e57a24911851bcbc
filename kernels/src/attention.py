"""Attention over packed sequences of any lengths: the public functions.

Shape suffixes: T tokens of all sequences, H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .arguments import check_heads, check_qkv, check_rope, check_scale, check_sequences, check_window
from .problem import Problem


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
    return_lse: bool = False,
    schedule: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention inside each packed sequence, never across them; no padding is computed.

    Args:
        q: queries [T, H, D], floating point.
        k: keys [T, G, D] with H a multiple of G: query head i reads key head i // (H / G).
        v: values [T, G, D].
        cu_seqlens: int32 or int64 [sequences + 1], offsets from 0 to T; empty sequences are allowed.
        max_seqlen: at least the longest sequence.
        window: keys visible to each side: |i - j| <= window, so 64 shows up to 129 keys.
        causal: hide keys after the query.
        scale: positive factor on the scores, D**-0.5 by default.
        rope: (cos, sin), each [>= max_seqlen, D/2]; rotates q and k by halves (element d with
            d + D/2), positions restart at 0 with every sequence. Computed in float32 at least.
        backend: one of hwsearch.kernels.dispatch.BACKENDS; by default the one that
            `hwsearch gpus show` names.
        return_lse: also return the log-sum-exp of the scaled scores, float32 [H, T].
        schedule: attention_schedule(cu_seqlens, T), to build it once for all layers; only the
            triton backend reads it.

    Returns:
        [T, H, D] in q's dtype. Differentiable in q, k and v.

    Raises ValueError, which names the argument.
    """
    check_heads(q, k, v)
    problem = _problem(q, cu_seqlens, max_seqlen, window, causal, scale, rope, schedule)
    out, lse = _backend(backend).attend(q, k, v, problem)
    return (out, lse) if return_lse else out


def varlen_attention_qkvpacked(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
    return_lse: bool = False,
    schedule: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `varlen_attention`, of qkv [T, 3, H, D]: read where it lies, and one gradient [T, 3, H, D]."""
    check_qkv(qkv)
    problem = _problem(qkv[:, 0], cu_seqlens, max_seqlen, window, causal, scale, rope, schedule)
    out, lse = _backend(backend).attend_packed(qkv, problem)
    return (out, lse) if return_lse else out


def _problem(
    q: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int | None,
    causal: bool,
    scale: float | None,
    rope: tuple[Tensor, Tensor] | None,
    schedule: Tensor | None,
) -> Problem:
    check_sequences(cu_seqlens, max_seqlen, q)
    check_window(window)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    check_scale(scale)
    if rope is not None:
        check_rope(rope, max_seqlen, q)
    return Problem(cu_seqlens, max_seqlen, window, causal, scale, rope, schedule)


def _backend(name: str | None) -> ModuleType:
    if name == "triton":
        from .backends import triton

        return triton
    from .backends import cpu

    return cpu
