"""Attention over packed sequences of any lengths: the public function.

Shape suffixes: T tokens of all sequences, H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import checked_lengths, checked_rope, checked_window
from .band import band_attention, band_scores
from .by_length import attention_by_length
from .rotation import rotate


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
) -> Tensor:
    """Softmax attention inside each packed sequence, never across them; no padding is computed.

    Args:
        q: queries [T, H, D], floating point.
        k: keys [T, G, D] with H a multiple of G: query head i reads key head i // (H / G).
        v: values [T, G, D].
        cu_seqlens: int32 or int64 [sequences + 1], offsets from 0 to T; empty sequences are allowed.
        max_seqlen: at least the longest sequence.
        window: keys visible to each side: |i - j| <= window, so 64 shows up to 129 keys.
        causal: hide keys after the query.
        scale: factor on the scores, D**-0.5 by default.
        rope: (cos, sin), each [>= max_seqlen, D/2]; rotates q and k by halves (element d with
            d + D/2), positions restart at 0 with every sequence. Computed in float32 at least.

    Returns:
        [T, H, D] in q's dtype. Differentiable in q, k and v.

    Raises ValueError, which names the argument.
    """
    lengths = checked_lengths(q, k, v, cu_seqlens, max_seqlen)
    checked_window(window)
    if q.shape[0] == 0:
        return torch.zeros_like(q)
    if rope is not None:
        cos, sin = checked_rope(rope, max_seqlen, q)
        positions = token_positions(lengths, q.device)
        cos_TR, sin_TR = cos[positions], sin[positions]
        q, k = (rotate(x, cos_TR, sin_TR) for x in (q, k))
    if window is not None:
        window = min(window, max(lengths) - 1)
        if band_scores(lengths, window) < sum(s * s for s in lengths):
            return band_attention(q, k, v, lengths, window, causal=causal, scale=scale)
    return attention_by_length(q, k, v, lengths, window, causal=causal, scale=scale)


def token_positions(lengths: list[int], device: torch.device) -> Tensor:
    """Position of every packed token within its own sequence, int64 [T]."""
    sizes = torch.tensor(lengths, device=device)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(sum(lengths), device=device) - starts.repeat_interleave(sizes)
