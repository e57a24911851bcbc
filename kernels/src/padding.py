"""From padded batches to packed tokens and back, without waiting for the device where lengths are known.

Shape suffixes: B sequences, S padded length, T kept tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Which places of a padded [B, S] batch hold tokens.

    Attributes:
        batch_size, padded_length: B and S.
        indices: int64 [T], places of the tokens in the flattened batch, rising.
        cu_seqlens: int32 [B + 1], offsets of the sequences on the packed axis, from 0 to T.
        max_seqlen: the longest sequence, 0 without any.
    """

    batch_size: int
    padded_length: int
    indices: Tensor
    cu_seqlens: Tensor
    max_seqlen: int


def padding_of_lengths(
    lengths: Sequence[int], padded_length: int, device: torch.device | str = "cpu"
) -> Padding:
    """Sequences that begin at the left edge. The host waits for nothing: only [B + 1] offsets are copied.

    Raises ValueError for lengths outside of 0 .. padded_length.
    """
    offsets = _offsets(lengths, padded_length)
    cu_seqlens = _to_device(torch.tensor(offsets, dtype=torch.int32), device)
    # Every token of sequence b lies b * S - offsets[b] further in the padded batch than in the packed one.
    rows_B = torch.arange(len(lengths), device=device) * padded_length
    shift_T = torch.repeat_interleave(rows_B - cu_seqlens[:-1], cu_seqlens.diff(), output_size=offsets[-1])
    indices = torch.arange(offsets[-1], device=device) + shift_T
    return Padding(len(lengths), padded_length, indices, cu_seqlens, max(lengths, default=0))


def padding_of_mask(attention_mask: Tensor, lengths: Sequence[int] | None = None) -> Padding:
    """Tokens wherever the mask is not 0: padded left, right or in between; their order is kept.

    A token's position is its place among the kept ones of its sequence, which is what a model on packed
    tokens counts by.

    Args:
        attention_mask: bool, integer or floating point [B, S].
        lengths: how many tokens each row keeps, if the host knows; without it the device is asked
            once, which waits for it.

    Raises ValueError, which names the argument; lengths other than the mask's are one on the CPU, and
    elsewhere a device-side assertion (torch._assert_async).
    """
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask: shape {tuple(attention_mask.shape)}; accepted: [batch, length]")
    kept = attention_mask != 0
    unread = lengths is not None and kept.device.type != "cpu"
    batch_size, padded_length = kept.shape
    if lengths is None:
        lengths = kept.sum(1).tolist()
    elif len(lengths) != batch_size:
        raise ValueError(
            f"lengths: {len(lengths)} of them; accepted: {batch_size}, the rows of attention_mask"
        )
    elif kept.device.type == "cpu" and list(lengths) != (found := kept.sum(1).tolist()):
        raise ValueError(f"lengths: {list(lengths)[:8]}; attention_mask keeps {found[:8]}")
    offsets = _offsets(lengths, padded_length)
    cu_seqlens = _to_device(torch.tensor(offsets, dtype=torch.int32), kept.device)
    if unread:
        torch._assert_async((kept.sum(1) == cu_seqlens.diff()).all(), "lengths: not those of attention_mask")
    indices = torch.nonzero_static(kept.flatten(), size=offsets[-1])[:, 0]
    return Padding(batch_size, padded_length, indices, cu_seqlens, max(lengths, default=0))


def unpad(x: Tensor, padding: Padding) -> Tensor:
    """[B, S, ...] -> [T, ...]; differentiable. Raises ValueError for a batch of another size."""
    if tuple(x.shape[:2]) != (padding.batch_size, padding.padded_length):
        raise ValueError(
            f"x: shape {tuple(x.shape)}; accepted: [{padding.batch_size}, {padding.padded_length}, ...]"
        )
    return x.flatten(0, 1).index_select(0, padding.indices)


def pad(x: Tensor, padding: Padding) -> Tensor:
    """[T, ...] -> [B, S, ...], zeros where no token is; differentiable.

    Raises ValueError for another number of tokens.
    """
    tokens = padding.indices.shape[0]
    if x.dim() == 0 or x.shape[0] != tokens:
        raise ValueError(f"x: shape {tuple(x.shape)}; accepted: [{tokens}, ...]")
    places = padding.batch_size * padding.padded_length
    padded = x.new_zeros((places, *x.shape[1:])).index_copy(0, padding.indices, x)
    return padded.view(padding.batch_size, padding.padded_length, *x.shape[1:])


def _offsets(lengths: Sequence[int], padded_length: int) -> list[int]:
    for row, length in enumerate(lengths):
        if not 0 <= length <= padded_length:
            raise ValueError(f"lengths: {length} in row {row}; accepted: 0 .. {padded_length}")
    return list(accumulate(lengths, initial=0))


def _to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A copy from pinned memory goes behind the device's work; from pageable memory the host waits for it."""
    if torch.device(device).type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
