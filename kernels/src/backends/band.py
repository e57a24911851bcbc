"""Local attention along the diagonal of the packed token axis.

Tokens of one sequence lie next to each other, so a window around a token in its sequence is the
same window on the packed axis, less the tokens of its neighbours. A block of queries then needs
only its own keys and `window` more to each side, whatever the sequences' lengths.

Shape suffixes: N query blocks, Q queries a block, K keys a block = Q + 2 * window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

MIN_BLOCK = 64


def _block(window: int) -> int:
    # Blocks as wide as the window copy each key three times, however wide that is.
    return max(MIN_BLOCK, window)


def band_scores(lengths: list[int], window: int) -> int:
    """Query-key products that `band_attention` computes for one head."""
    block = _block(window)
    blocks = -(-sum(lengths) // block)
    return blocks * block * (block + 2 * window)


def band_attention(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    lengths: list[int],
    window: int,
    *,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """[T, H, D], at the cost of `band_scores` instead of the sum of squared lengths."""
    tokens, block = q_THD.shape[0], _block(window)
    rest = -tokens % block
    q_NHQD = pad(q_THD, (0, 0, 0, 0, 0, rest)).view(-1, block, *q_THD.shape[1:]).transpose(1, 2)
    k_NGKD, v_NGKD = (
        pad(x, (0, 0, 0, 0, window, rest + window)).unfold(0, block + 2 * window, block).transpose(2, 3)
        for x in (k_TGD, v_TGD)
    )
    o_NHQD = scaled_dot_product_attention(
        q_NHQD,
        k_NGKD,
        v_NGKD,
        attn_mask=_visible(lengths, window, block, causal, q_THD.device)[:, None],
        scale=scale,
        enable_gqa=q_NHQD.shape[1] != k_NGKD.shape[1],
    )
    return o_NHQD.transpose(1, 2).flatten(0, 1)[:tokens]


def _visible(lengths: list[int], window: int, block: int, causal: bool, device: torch.device) -> Tensor:
    """True where query and key are of one sequence and within the window, [N, Q, K]."""
    sizes = torch.tensor(lengths, device=device)
    sequence = torch.arange(len(lengths), device=device).repeat_interleave(sizes)
    rest = -sequence.numel() % block
    # Padding is a sequence of its own, so that no row is left without a visible key (softmax: NaN).
    query_sequence = pad(sequence, (0, rest), value=-1).view(-1, block)
    key_sequence = pad(sequence, (window, rest + window), value=-1).unfold(0, block + 2 * window, block)
    key = torch.arange(block + 2 * window, device=device) - window
    ahead = key[None, :] - torch.arange(block, device=device)[:, None]
    in_window = (ahead >= -window) & (ahead <= (0 if causal else window))
    return (query_sequence[:, :, None] == key_sequence[:, None, :]) & in_window
