"""What every backend is asked: the sequences, what a query sees of its own, and how q and k are turned."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Arguments of varlen_attention besides q, k and v, already checked.

    Attributes:
        cu_seqlens: int32 or int64 [sequences + 1], on q's device.
        max_seqlen: at least the longest sequence.
        window: keys visible to each side, below 2**30; None for all.
        causal: keys after the query are hidden.
        scale: positive factor on the scores.
        rope: (cos, sin), each [>= max_seqlen, D / 2], or None.
        schedule: from attention_schedule(cu_seqlens, T, max_seqlen), or None where none was given.
        return_lse: the caller wants the log-sum-exp; a backend that has none at hand computes it then.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    window: int | None
    causal: bool
    scale: float
    rope: tuple[Tensor, Tensor] | None
    schedule: Tensor | None
    return_lse: bool
