"""The log-sum-exp of the scores for backends that do not return it, and its gradient.

Shape suffixes: B batch of sequences or blocks, H query heads, G key heads, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Scores held at a time, 256 MiB in float32.
SCORES_AT_A_TIME = 2**26


def log_sum_exp(q_BHQD: Tensor, k_BGKD: Tensor, visible_BQK: Tensor | None, scale: float) -> Tensor:
    """float32 [B, H, Q], without a gradient; B of `visible_BQK` may be 1."""
    out_BHQ: Tensor = _operator(q_BHQD.detach(), k_BGKD.detach(), visible_BQK, scale)
    return out_BHQ


# An operator, so that torch.compile does not unroll the loops.
@torch.library.custom_op("hwsearch::log_sum_exp", mutates_args=())
def _operator(q_BHQD: Tensor, k_BGKD: Tensor, visible_BQK: Tensor | None, scale: float) -> Tensor:
    """Of a head and a few rows at a time."""
    precise = torch.promote_types(q_BHQD.dtype, torch.float32)
    batch, heads, queries, _ = q_BHQD.shape
    rows = max(1, SCORES_AT_A_TIME // (batch * k_BGKD.shape[2]))
    out_BHQ = torch.empty((batch, heads, queries), dtype=torch.float32, device=q_BHQD.device)
    with torch.autocast(q_BHQD.device.type, enabled=False):
        for head in range(heads):
            k_BDK = k_BGKD[:, head * k_BGKD.shape[1] // heads].to(precise).mT
            for first in range(0, queries, rows):
                part = slice(first, first + rows)
                scores = scale * (q_BHQD[:, head, part].to(precise) @ k_BDK)
                if visible_BQK is not None:
                    scores = scores.masked_fill(~visible_BQK[:, part], -torch.inf)
                out_BHQ[:, head, part] = scores.logsumexp(-1)
    return out_BHQ


@_operator.register_fake
def _(q_BHQD: Tensor, k_BGKD: Tensor, visible_BQK: Tensor | None, scale: float) -> Tensor:
    return torch.empty(q_BHQD.shape[:3], dtype=torch.float32, device=q_BHQD.device)


def with_gradient(
    lse_HT: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Any], q: Tensor, k: Tensor, scale: float
) -> Tensor:
    """`lse_HT` with a gradient in q and k, where one may be asked for.

    Its derivative by the scores is the softmax, so that by q is attention over the keys themselves, and
    that by k the values' gradient of the same call: any kernel that is differentiable gives both.
    """
    lse_HT = lse_HT.detach()
    if not torch.is_grad_enabled() or not (q.requires_grad or k.requires_grad):
        return lse_HT
    mean_key_THD = attend(q.detach(), k.detach(), k)
    precise = torch.promote_types(q.dtype, torch.float32)
    change_HT = scale * (q.to(precise) * mean_key_THD).sum(-1).T
    nothing_HT: Tensor = change_HT - change_HT.detach()
    return lse_HT + nothing_HT.to(torch.float32)
