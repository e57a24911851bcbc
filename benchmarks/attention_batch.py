"""Tensors of one case, and the float64 truth that every method is compared with.

Shape suffixes: T tokens, S tokens of one sequence, H heads, D head size, R = D / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from attention_cases import Case
from torch import Tensor

from hwsearch.kernels.rotation import rotate

# ModernBERT's local layers; the angle only matters for the error.
ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Batch:
    """Inputs on the device: q, k, v, dout [T, H, D]; cu_seqlens int32; cos, sin float32 [longest, R]."""

    case: Case
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    cu_seqlens: Tensor
    cos: Tensor
    sin: Tensor

    @property
    def sequence(self) -> Tensor:
        """Which sequence a token is of, int64 [T]."""
        lengths = self.cu_seqlens.diff().long()
        return torch.arange(lengths.numel(), device=lengths.device).repeat_interleave(lengths)

    @property
    def position(self) -> Tensor:
        """Place of a token in its sequence, int64 [T]."""
        return (
            torch.arange(self.q.shape[0], device=self.q.device) - self.cu_seqlens[:-1].long()[self.sequence]
        )


def make_batch(case: Case, device: str, seed: int = 0) -> Batch:
    """Fresh normal numbers in bf16; never zeros, which run faster and hide what is not written."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (case.tokens, case.heads, case.head_size)
    q, k, v, dout = (
        torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16) for _ in range(4)
    )
    offsets = torch.from_numpy(np.concatenate(([0], np.cumsum(case.lengths)))).to(device, torch.int32)
    half = case.head_size // 2
    turns = torch.arange(case.longest, device=device)[:, None] * ROPE_THETA ** (
        -torch.arange(half, device=device) / half
    )
    return Batch(case, q, k, v, dout, offsets, turns.cos(), turns.sin())


@dataclass(frozen=True)
class Truth:
    """What the chosen rows of T and heads should give in float64, by name: out, dq, dk and dv."""

    rows: Tensor
    heads: list[int]
    tensors: dict[str, Tensor]

    def error(self, found: dict[str, Tensor]) -> float:
        """The largest ||found - truth|| / ||truth||; NaN where any element of `found` is."""
        errors = []
        for name, x in found.items():
            x, true = x.detach(), self.tensors[name]
            # NaN anywhere, not only in the chosen rows, is an element that was never written.
            poison = 0.0 * x.sum(dtype=torch.float32)
            part = x[self.rows][:, self.heads].double()
            errors.append(float((part - true).norm() / true.norm() + poison))
        return max(errors, key=lambda error: (error != error, error))


def truth(batch: Batch, with_rope: bool) -> Truth:
    """Of the longest, the shortest and the last sequence; of the first and the last head."""
    lengths, heads = batch.case.lengths, sorted({0, batch.case.heads - 1})
    chosen = sorted({lengths.index(max(lengths)), lengths.index(min(lengths)), len(lengths) - 1})
    parts, rows = [], []
    for index in chosen:
        start = int(batch.cu_seqlens[index])
        part = slice(start, start + lengths[index])
        rows.append(torch.arange(part.start, part.stop, device=batch.q.device))
        parts.append(_of_sequence(batch, part, heads, with_rope))
    tensors = (torch.cat(x) for x in zip(*parts, strict=True))
    return Truth(torch.cat(rows), heads, dict(zip(("out", "dq", "dk", "dv"), tensors, strict=True)))


def _of_sequence(batch: Batch, part: slice, heads: list[int], with_rope: bool) -> tuple[Tensor, ...]:
    """(out, dq, dk, dv) of one sequence, each [S, heads, D] in float64."""
    leaves = [x[part][:, heads].double().requires_grad_() for x in (batch.q, batch.k, batch.v)]
    q, k, v = leaves
    length, size = q.shape[0], q.shape[2]
    if with_rope:
        cos, sin = batch.cos[:length].double(), batch.sin[:length].double()
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    scores_HSS = torch.einsum("ihd,jhd->hij", q, k) * size**-0.5
    if batch.case.window is not None:
        place = torch.arange(length, device=q.device)
        hidden = (place[:, None] - place[None, :]).abs() > batch.case.window
        scores_HSS = scores_HSS.masked_fill(hidden, float("-inf"))
    out = torch.einsum("hij,jhd->ihd", scores_HSS.softmax(-1), v)
    gradients = torch.autograd.grad(out, leaves, batch.dout[part][:, heads].double())
    return out.detach(), *gradients
