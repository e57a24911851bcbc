"""Attention with one PyTorch SDPA call for all sequences of the same length.

Shape suffixes: T packed tokens, B sequences of one length, S that length, H heads, D head size.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .log_sum_exp import log_sum_exp

# Fewer in a call than this, and it pays to gather sequences of one length from all over the row.
FEW_TOKENS = 64


def attention_by_length(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    lengths: list[int],
    window: int | None,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """[T, H, D]; a window becomes an [S, S] mask, so this serves lengths near the window."""
    starts_of = _starts_of(lengths)
    in_place = len(runs := _runs(lengths)) * FEW_TOKENS <= q_THD.shape[0] or len(runs) == len(starts_of)
    taken = (
        _split(x, runs) if in_place else [_take(x, starts, length) for length, starts in starts_of.items()]
        for x in (q_THD, k_TGD, v_TGD)
    )
    outputs = []
    for sequences in zip(*taken, strict=True):
        q, k, v = (x_BSHD.transpose(1, 2) for x_BSHD in sequences)
        length = q.shape[2]
        hidden = window is not None and window < length - 1
        o_BHSD = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_visible(length, window, causal, q.device) if hidden else None,
            is_causal=causal and not hidden,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(o_BHSD.transpose(1, 2).flatten(0, 1))
    # A single output needs no copy.
    o_THD = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return o_THD if in_place else _in_packed_order(o_THD, starts_of)


def log_sum_exp_by_length(
    q_THD: Tensor, k_TGD: Tensor, lengths: list[int], window: int | None, *, causal: bool, scale: float
) -> Tensor:
    """float32 [H, T]."""
    starts_of = _starts_of(lengths)
    outputs = []
    for length, starts in starts_of.items():
        q, k = (_take(x, starts, length).transpose(1, 2) for x in (q_THD, k_TGD))
        visible = _visible(length, window, causal, q.device)[None]
        outputs.append(log_sum_exp(q, k, visible, scale).transpose(1, 2).flatten(0, 1))
    return _in_packed_order(torch.cat(outputs), starts_of).T.contiguous()


def _starts_of(lengths: list[int]) -> dict[int, list[int]]:
    """First tokens of the sequences by their length, empty ones left out."""
    starts_of: dict[int, list[int]] = defaultdict(list)
    start = 0
    for length in lengths:
        if length:
            starts_of[length].append(start)
        start += length
    return starts_of


def _runs(lengths: list[int]) -> list[tuple[int, int]]:
    """(length, how many) of sequences of one length that follow each other, empty ones left out."""
    return [(length, len([*run])) for length, run in groupby(filter(None, lengths))]


def _split(x_THD: Tensor, runs: list[tuple[int, int]]) -> list[Tensor]:
    """[B, S, H, D] of each run: views whose gradients are joined at once; a slice's would be all of x."""
    parts = x_THD.split([length * count for length, count in runs])  # type: ignore[no-untyped-call]
    return [
        part.view(count, length, *part.shape[1:]) for part, (length, count) in zip(parts, runs, strict=True)
    ]


def _take(x_THD: Tensor, starts: list[int], length: int) -> Tensor:
    """The sequences at `starts`, [B, S, H, D]; a view where they follow each other."""
    first, last = starts[0], starts[-1] + length
    if last - first == len(starts) * length:
        return x_THD[first:last].view(len(starts), length, *x_THD.shape[1:])
    return x_THD[_rows(starts, length, x_THD.device)]


def _rows(starts: list[int], length: int, device: torch.device) -> Tensor:
    return torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)


def _visible(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """True where a key is visible, [S, S]."""
    window = length if window is None else window
    position = torch.arange(length, device=device)
    ahead = position[None, :] - position[:, None]
    return (ahead >= -window) & (ahead <= (0 if causal else window))


def _in_packed_order(o_THD: Tensor, starts_of: dict[int, list[int]]) -> Tensor:
    grouped = [start for starts in starts_of.values() for start in starts]
    if grouped == sorted(grouped):
        return o_THD
    rows = [_rows(starts, length, o_THD.device).flatten() for length, starts in starts_of.items()]
    return o_THD[torch.cat(rows).argsort()]
