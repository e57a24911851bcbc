"""Local attention along the diagonal of the packed token axis.

Tokens of one sequence lie next to each other, so a window around a token in its sequence is the
same window on the packed axis, less the tokens of its neighbours. A block of queries then needs
only its own keys and `window` more to each side, whatever the sequences' lengths.

Shape suffixes: N query blocks, Q queries a block, K keys a block = Q + 2 * window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .log_sum_exp import log_sum_exp
from .packed import sequence_of_tokens

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
    cu_seqlens: Tensor,
    window: int,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """[T, H, D], at the cost of `band_scores` instead of the sum of squared lengths."""
    tokens, block = q_THD.shape[0], _block(window)
    q_NHQD = _query_blocks(q_THD, block)
    k_NGKD, v_NGKD = (_key_blocks(x, window, block) for x in (k_TGD, v_TGD))
    o_NHQD = scaled_dot_product_attention(
        q_NHQD,
        k_NGKD,
        v_NGKD,
        attn_mask=_visible(cu_seqlens, tokens, window, block, causal)[:, None],
        scale=scale,
        enable_gqa=q_NHQD.shape[1] != k_NGKD.shape[1],
    )
    return o_NHQD.transpose(1, 2).flatten(0, 1)[:tokens]


def band_log_sum_exp(
    q_THD: Tensor, k_TGD: Tensor, cu_seqlens: Tensor, window: int, *, causal: bool, scale: float
) -> Tensor:
    """float32 [H, T]."""
    tokens, block = q_THD.shape[0], _block(window)
    lse_NHQ = log_sum_exp(
        _query_blocks(q_THD, block),
        _key_blocks(k_TGD, window, block),
        _visible(cu_seqlens, tokens, window, block, causal),
        scale,
    )
    return lse_NHQ.transpose(0, 1).flatten(1)[:, :tokens]


def _query_blocks(x_THD: Tensor, block: int) -> Tensor:
    rest = -x_THD.shape[0] % block
    return pad(x_THD, (0, 0, 0, 0, 0, rest)).view(-1, block, *x_THD.shape[1:]).transpose(1, 2)


def _key_blocks(x_TGD: Tensor, window: int, block: int) -> Tensor:
    rest = -x_TGD.shape[0] % block
    padded = pad(x_TGD, (0, 0, 0, 0, window, rest + window))
    blocks: Tensor = _Overlapping.apply(padded, block, block + 2 * window)  # type: ignore[no-untyped-call]
    return blocks


class _Overlapping(torch.autograd.Function):
    """x[T, G, D] in blocks [N, G, K, D] that begin every `block` tokens, without a copy.

    torch's own gradient of `unfold` adds one number at a time.
    """

    @staticmethod
    def forward(ctx: Any, x_TGD: Tensor, block: int, keys: int) -> Tensor:
        ctx.tokens, ctx.block = x_TGD.shape[0], block
        return x_TGD.unfold(0, keys, block).transpose(2, 3)

    @staticmethod
    def backward(ctx: Any, dblocks_NGKD: Tensor) -> tuple[Tensor, None, None]:
        blocks, heads, keys, size = dblocks_NGKD.shape
        rows = blocks + -(-keys // ctx.block) - 1
        dx = dblocks_NGKD.new_zeros(rows, ctx.block, heads, size)
        for row, first in enumerate(range(0, keys, ctx.block)):
            piece_NCGD = dblocks_NGKD[:, :, first : first + ctx.block].transpose(1, 2)
            dx[row : row + blocks, : piece_NCGD.shape[1]] += piece_NCGD
        return dx.flatten(0, 1)[: ctx.tokens], None, None


def _visible(cu_seqlens: Tensor, tokens: int, window: int, block: int, causal: bool) -> Tensor:
    """True where query and key are of one sequence and within the window, [N, Q, K]."""
    sequence = sequence_of_tokens(cu_seqlens, tokens)
    rest = -tokens % block
    # Padding is a sequence of its own, so that no row is left without a visible key (softmax: NaN).
    query_sequence = pad(sequence, (0, rest), value=-1).view(-1, block)
    key_sequence = pad(sequence, (window, rest + window), value=-1).unfold(0, block + 2 * window, block)
    key = torch.arange(block + 2 * window, device=cu_seqlens.device) - window
    ahead = key[None, :] - torch.arange(block, device=cu_seqlens.device)[:, None]
    in_window = (ahead >= -window) & (ahead <= (0 if causal else window))
    return (query_sequence[:, :, None] == key_sequence[:, None, :]) & in_window
