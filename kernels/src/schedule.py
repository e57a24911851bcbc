"""The work list that the Triton kernels walk: one entry per tile of every packed sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_attention.configs import TILE_SIZES


# One operator, so that a compiled model is not built again for another count of sequences.
@torch.library.custom_op("hwsearch::attention_schedule", mutates_args=())
def attention_schedule(cu_seqlens: Tensor, tokens: int, max_seqlen: int) -> Tensor:
    """Build once a batch, on the device, what all layers and passes walk; no host synchronisation.

    Args:
        cu_seqlens: int32 or int64 [sequences + 1], offsets from 0 to `tokens`.
        tokens: T, length of the packed axis.
        max_seqlen: what the calls are given: at least the longest sequence.

    Returns:
        int32 [sizes, slots, 3] with sizes as in TILE_SIZES and slots = T // 16 + sequences + 1, rounded
        up to a multiple of 4. Entry (first token of the sequence, its length, first row of the tile in
        the sequence); tiles of the longest sequence first. Entries after the last tile are zeros.

    In a CUDA graph build it inside the capture: the kernels read this list alone, never cu_seqlens, so
    that one built outside keeps its lengths. T, the count of sequences and max_seqlen stay those captured:
    fewer sequences are empty ones at the end, fewer tokens another sequence.

    Raises ValueError for a cu_seqlens of another shape or dtype; on a CPU also for offsets out of order or
    beyond T, and for a sequence longer than max_seqlen. On a GPU, whose values are not read, the last are a
    device-side assertion (torch._assert_async).
    """
    check_offsets_tensor(cu_seqlens)
    sequences = cu_seqlens.shape[0] - 1
    lengths = cu_seqlens.diff()
    in_order = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == tokens) & (lengths >= 0).all()
    _require(in_order, f"cu_seqlens: offsets must rise from 0 to the {tokens} tokens")
    _require((lengths <= max_seqlen).all(), f"max_seqlen: {max_seqlen} is less than the longest sequence")
    if sequences == 0:
        return cu_seqlens.new_zeros((len(TILE_SIZES), slot_count(0, tokens), 3), dtype=torch.int32)
    lengths, order = lengths.sort(descending=True, stable=True)
    starts = cu_seqlens[:-1][order]
    # Computed, not copied from the host, which would wait for the device.
    sizes = TILE_SIZES[0] << torch.arange(len(TILE_SIZES), device=cu_seqlens.device)[:, None]
    tiles = (lengths + sizes - 1) // sizes
    ends = tiles.cumsum(1)
    slots = torch.arange(slot_count(sequences, tokens), device=cu_seqlens.device)
    slots = slots.expand(len(TILE_SIZES), -1).contiguous()
    sequence = torch.searchsorted(ends, slots, right=True)
    used = sequence < sequences
    sequence = sequence.clamp(max=sequences - 1)
    first = (slots - (ends - tiles).gather(1, sequence)) * sizes
    entries = torch.stack((starts[sequence], lengths[sequence], first), dim=2)
    return torch.where(used[:, :, None], entries, 0).to(torch.int32)


@attention_schedule.register_fake
def _(cu_seqlens: Tensor, tokens: int, max_seqlen: int) -> Tensor:
    slots = slot_count(cu_seqlens.shape[0] - 1, tokens)
    return cu_seqlens.new_empty((len(TILE_SIZES), slots, 3), dtype=torch.int32)


def check_offsets_tensor(cu_seqlens: Tensor) -> None:
    shape, dtype = cu_seqlens.shape, cu_seqlens.dtype
    if len(shape) != 1 or shape[0] == 0 or dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens: {dtype} {tuple(shape)}; accepted: int32 or int64 [sequences + 1]")


def _require(holds: Tensor, otherwise: str) -> None:
    if holds.device.type != "cpu":
        torch._assert_async(holds, otherwise)
    elif not holds:
        raise ValueError(otherwise)


def slot_count(sequences: int, tokens: int) -> int:
    # A multiple of 4, so that each list begins at 16 bytes: Triton builds a kernel again for other pointers.
    # Never 1: torch.compile builds a model again for a dimension of 1.
    return (tokens // TILE_SIZES[0] + sequences + 4) // 4 * 4
