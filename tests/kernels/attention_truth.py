"""What attention is compared with: the truth in float64, PyTorch's own answer, and inputs for both.

Shape suffixes: T packed tokens, H query heads, G key heads, D head size, Q and K tokens of a piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hwsearch.kernels import varlen_attention
from hwsearch.kernels.rotation import rotate

# Where the kernels run: compiled on a GPU, or else interpreted.
DEVICE = "cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
PIECE = 1024


@dataclass(frozen=True)
class Case:
    """One call of attention; max_seqlen exceeds the longest sequence by `spare`."""

    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    size: int = 32
    heads: int = 1
    key_heads: int = 1
    window: int | None = None
    causal: bool = False
    scale: float | None = None
    rope: bool = False
    spare: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def max_seqlen(self) -> int:
        return max(self.lengths, default=0) + self.spare

    def cu_seqlens(self) -> Tensor:
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=DEVICE)

    def rope_tables(self) -> tuple[Tensor, Tensor] | None:
        return rope_tables(self.max_seqlen, self.size) if self.rope else None

    def random(self, *heads: int, seed: int = 0) -> list[Tensor]:
        """Normal [T, heads, D] for each count of heads."""
        generator = torch.Generator().manual_seed(seed)
        shapes = [(self.tokens, count, self.size) for count in heads]
        return [torch.randn(shape, generator=generator).to(DEVICE, self.dtype) for shape in shapes]

    def qkv(self, seed: int = 0) -> list[Tensor]:
        return self.random(self.heads, self.key_heads, self.key_heads, seed=seed)


def rope_tables(positions: int, size: int) -> tuple[Tensor, Tensor]:
    speed = 1000.0 ** -(torch.arange(size // 2, dtype=torch.float64) / (size // 2))
    angle = torch.outer(torch.arange(positions, dtype=torch.float64), speed)
    return angle.cos().float().to(DEVICE), angle.sin().float().to(DEVICE)


def ours(q: Tensor, k: Tensor, v: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """(out [T, H, D], lse [H, T]) of the Triton kernels."""
    return varlen_attention(
        q, k, v, case.cu_seqlens(), case.max_seqlen, window=case.window, causal=case.causal,
        scale=case.scale, rope=case.rope_tables(), backend="triton", return_lse=True,
    )  # fmt: skip


def truth(q: Tensor, k: Tensor, v: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """As `ours`, by the formula in float64."""
    return _by_piece(q.double(), k.double(), v.double(), case, _formula)


def pytorch(q: Tensor, k: Tensor, v: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """As `ours`, by SDPA in q's dtype, and by logsumexp in float32, which SDPA does not give."""
    return _by_piece(q, k, v, case, _sdpa)


def with_gradients(attention, q, k, v, case: Case, dout: Tensor, dlse: Tensor | None = None):
    """{"out", "lse", "dq", "dk", "dv"}; without `dlse` the loss does not read lse."""
    # The truth's gradients must not be rounded to the dtype of its inputs.
    leaves = [(x.double() if attention is truth else x).detach().requires_grad_() for x in (q, k, v)]
    out, lse = attention(*leaves, case)
    outputs, gradients = [out], [dout.to(out.dtype)]
    if dlse is not None:
        outputs, gradients = [out, lse], [*gradients, dlse.to(lse.dtype)]
    found = torch.autograd.grad(outputs, leaves, gradients)
    named = {"out": out, "lse": lse, "dq": found[0], "dk": found[1], "dv": found[2]}
    return {name: x.detach() for name, x in named.items()}


def error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where something is not a number."""
    if not found.numel():
        return 0.0
    largest = (found.double() - expected.double()).abs().max()
    return float(largest.nan_to_num(nan=float("inf")))


def _by_piece(q_THD, k_TGD, v_TGD, case: Case, attend) -> tuple[Tensor, Tensor]:
    outs, lses, start = [q_THD[:0]], [q_THD[:0, :, 0].T], 0
    scale = case.size**-0.5 if case.scale is None else case.scale
    for length in case.lengths:
        q, k, v = (x[start : start + length] for x in (q_THD, k_TGD, v_TGD))
        start += length
        if case.rope:
            q, k = (_turned(x, case) for x in (q, k))
        k, v = (x.repeat_interleave(case.heads // case.key_heads, dim=1) for x in (k, v))
        for rows, keys, seen_QK in _pieces(length, case.window, case.causal):
            out, lse = attend(*(x.transpose(0, 1) for x in (q[rows], k[keys], v[keys])), seen_QK, scale)
            outs.append(out.transpose(0, 1))
            lses.append(lse)
    return torch.cat(outs), torch.cat(lses, dim=1)


def _pieces(length: int, window: int | None, causal: bool) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """(queries, the keys that they may see, which of those each sees or None for all), in order."""
    for first in range(0, length, PIECE):
        last = min(first + PIECE, length) - 1
        low = 0 if window is None else max(0, first - window)
        high = last if causal else length - 1 if window is None else min(length - 1, last + window)
        ahead = torch.arange(low, high + 1)[None, :] - torch.arange(first, last + 1)[:, None]
        seen = torch.ones_like(ahead, dtype=torch.bool)
        if window is not None:
            seen &= ahead.abs() <= window
        if causal:
            seen &= ahead <= 0
        yield slice(first, last + 1), slice(low, high + 1), None if seen.all() else seen.to(DEVICE)


def _formula(q_HQD, k_HKD, v_HKD, seen_QK, scale) -> tuple[Tensor, Tensor]:
    scores = q_HQD @ k_HKD.mT * scale
    if seen_QK is not None:
        scores = scores.masked_fill(~seen_QK, -torch.inf)
    return scores.softmax(-1) @ v_HKD, scores.logsumexp(-1)


def _sdpa(q_HQD, k_HKD, v_HKD, seen_QK, scale) -> tuple[Tensor, Tensor]:
    out = scaled_dot_product_attention(
        q_HQD[None], k_HKD[None], v_HKD[None], attn_mask=seen_QK, scale=scale
    )[0]  # fmt: skip
    lse = _formula(q_HQD.float(), k_HKD.float(), v_HKD.float(), seen_QK, scale)[1]
    # Its value in float32, but its gradient through products in q's dtype, as all of SDPA's.
    in_dtype = _formula(q_HQD, k_HKD, v_HKD, seen_QK, scale)[1].float()
    return out, lse.detach() + (in_dtype - in_dtype.detach())


def _turned(x_SHD: Tensor, case: Case) -> Tensor:
    cos, sin = (table[: x_SHD.shape[0]] for table in case.rope_tables())
    if x_SHD.dtype != torch.float64:
        return rotate(x_SHD, cos, sin)
    # Independently of the package: pairs (d, d + D/2) as complex numbers.
    a, b = x_SHD.chunk(2, dim=-1)
    turned = torch.complex(a, b) * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat((turned.real, turned.imag), dim=-1)
