"""The tensors that attention is tuned on, and what it should compute from them.

Shape suffixes: T tokens, S tokens of one sequence, H heads, D head size, R = D / 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hwsearch.kernels import attention_schedule
from hwsearch.kernels.rotation import rotate
from hwsearch.tuning.kernel import WrongResult

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# ModernBERT's local layers; the angle changes no time.
ROPE_THETA = 10_000.0
# What the kernels' own tests allow: twice the error of PyTorch in the same dtype.
ERROR_RATIO, LEAST_ERROR = 2.0, 1e-5
PIECE = 1024  # queries whose scores the truth holds at once


@dataclass(frozen=True)
class Batch:
    """Packed sequences.

    Attributes:
        qkv: [T, 3, H, D], as an encoder's projection leaves them.
        dout: [T, H, D], gradient of the output.
        cos, sin: float32 [max_seqlen, R].
        window: keys to each side, None for all.
        max_seqlen: what calls are given; at least the longest sequence.
    """

    lengths: tuple[int, ...]
    qkv: Tensor
    dout: Tensor
    cu_seqlens: Tensor
    schedule: Tensor
    cos: Tensor
    sin: Tensor
    window: int | None
    max_seqlen: int

    @property
    def qkv_THD(self) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv.unbind(1)
        return q, k, v

    @property
    def heads(self) -> int:
        return self.qkv.shape[2]


def make_batch(
    lengths: Sequence[int],
    heads: int,
    head_size: int,
    dtype: str,
    window: int | None,
    max_seqlen: int,
    device: str,
    seed: int = 0,
) -> Batch:
    """Normal random numbers; never zeros, which run faster and hide what was not written."""
    generator = torch.Generator(device).manual_seed(seed)
    tokens = sum(lengths)
    shapes = ((tokens, 3, heads, head_size), (tokens, heads, head_size))
    qkv, dout = (torch.randn(s, generator=generator, device=device).to(DTYPES[dtype]) for s in shapes)
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    half = head_size // 2
    speeds = ROPE_THETA ** (-torch.arange(half, device=device) / half)
    turns = torch.arange(max_seqlen, device=device)[:, None] * speeds
    schedule = attention_schedule(cu_seqlens, tokens, max_seqlen)
    return Batch(
        tuple(lengths), qkv, dout, cu_seqlens, schedule, turns.cos(), turns.sin(), window, max_seqlen
    )


@dataclass(frozen=True)
class Truth:
    """What some rows of T and some heads should be, and how far from it is allowed, by output.

    Attributes:
        tensors: float64, [rows, heads, D]; [heads, rows] for "lse".
        allowed: the largest absolute difference.
    """

    rows: Tensor
    heads: list[int]
    tensors: dict[str, Tensor]
    allowed: dict[str, float]

    def check(self, found: Mapping[str, Tensor]) -> None:
        """Raise WrongResult where an output differs, or holds anywhere what is not a number."""
        for name, x in found.items():
            x = x.detach()
            if not bool(x.isfinite().all()):
                raise WrongResult(f"{name} has elements that are not finite numbers")
            error = float((_chosen(name, x, self.rows, self.heads) - self.tensors[name]).abs().max())
            if not error <= self.allowed[name]:
                raise WrongResult(f"{name} is off by {error:.2g}; accepted: {self.allowed[name]:.2g}")


def truth(batch: Batch, sequences: Sequence[int], heads: list[int], gradients: bool) -> Truth:
    """Of these sequences and heads, by the formula in float64; dq, dk and dv where `gradients` are wanted."""
    offsets = [0, *accumulate(batch.lengths)]
    rows, right, peer = [], [], []
    for index in sorted({index for index in sequences if batch.lengths[index]}):
        part = slice(offsets[index], offsets[index + 1])
        rows.append(torch.arange(part.start, part.stop, device=batch.qkv.device))
        right.append(_of_sequence(batch, part, heads, gradients, torch.float64))
        peer.append(_of_sequence(batch, part, heads, gradients, batch.qkv.dtype))
    tensors, peers = _joined(right), _joined(peer)
    allowed = {
        name: ERROR_RATIO * float((peers[name].double() - x).abs().max()) + LEAST_ERROR
        for name, x in tensors.items()
    }
    return Truth(torch.cat(rows), heads, tensors, allowed)


def _chosen(name: str, x: Tensor, rows: Tensor, heads: list[int]) -> Tensor:
    return (x[heads][:, rows] if name == "lse" else x[rows][:, heads]).double()


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim=int(name == "lse")) for name in parts[0]}


def _of_sequence(
    batch: Batch, part: slice, heads: list[int], gradients: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Outputs of one sequence: in float64 the truth, else what PyTorch's SDPA makes of it."""
    leaves = [x[part][:, heads].to(dtype).requires_grad_(gradients) for x in batch.qkv_THD]
    q, k, v = leaves
    length = q.shape[0]
    cos, sin = batch.cos[:length], batch.sin[:length]
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))  # H first
    scale = q.shape[2] ** -0.5
    outs, lses = [], []
    sums = [torch.zeros_like(x) for x in leaves]
    for rows, seen in _pieces(length, batch.window, q.device):
        lses.append(_log_sum_exp(q[:, rows].detach(), k.detach(), seen, scale))
        out = _attend(q[:, rows], k, v, seen, scale).transpose(0, 1)
        outs.append(out.detach())
        if gradients:
            dout = batch.dout[part][rows][:, heads].to(dtype)
            for total, gradient in zip(
                sums, torch.autograd.grad(out, leaves, dout, retain_graph=True), strict=True
            ):
                total += gradient
    found = {"out": torch.cat(outs), "lse": torch.cat(lses, dim=1)}
    return found | (dict(zip(("dq", "dk", "dv"), sums, strict=True)) if gradients else {})


def _pieces(length: int, window: int | None, device: torch.device) -> Iterator[tuple[slice, Tensor | None]]:
    """Queries, and which keys each of them sees; None for all."""
    places = torch.arange(length, device=device)
    for first in range(0, length, PIECE):
        rows = slice(first, min(first + PIECE, length))
        hidden = None if window is None else (places[rows, None] - places[None, :]).abs() > window
        yield rows, None if hidden is None else ~hidden


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    if q.dtype != torch.float64:
        return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=seen, scale=scale)[0]
    scores = q @ k.mT * scale
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def _log_sum_exp(q: Tensor, k: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(precise) @ k.to(precise).mT * scale
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.logsumexp(-1)
