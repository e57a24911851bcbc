"""PyTorch's memory-efficient kernel: global layers packed, local layers as blocks along the diagonal.

Runs on every CUDA GPU, with tensor cores where there are any: the choice for T4 and V100. The kernel is
wrapped in an operator of our own since torch.compile cannot trace its gradient (PyTorch 2.11-2.13
describe it with one argument too few) and since it pads the log-sum-exp of every sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem
from .cpu import along_the_band
from .log_sum_exp import with_gradient
from .packed import repeated, rotated, sequence_of_tokens, token_positions, with_contiguous_heads

forward_kernel: Any = torch.ops.aten._efficient_attention_forward
backward_kernel: Any = torch.ops.aten._efficient_attention_backward


def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    q, k = rotated(q, k, problem)
    k, v = (repeated(x, q.shape[1]) for x in (k, v))
    window = problem.window
    if window is not None and window < problem.max_seqlen - 1:
        return along_the_band(q, k, v, problem, window)
    q, k, v = (with_contiguous_heads(x) for x in (q, k, v))
    offsets = problem.cu_seqlens.to(torch.int32).contiguous()

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = operator(q, k, v, offsets, problem.max_seqlen, problem.causal, problem.scale)
        return out, lse

    out, padded_lse = attention(q, k, v)
    if not problem.return_lse:
        return out, None
    tokens = q.shape[0]
    lse_TH = padded_lse[sequence_of_tokens(offsets, tokens), :, token_positions(offsets, tokens)]
    lse_HT = lse_TH.T.contiguous()
    return out, with_gradient(lse_HT, lambda q, k, v: attention(q, k, v)[0], q, k, problem.scale)


@torch.library.custom_op("hwsearch::efficient_attention", mutates_args=())
def operator(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """(out [T, H, D], lse [sequences, H, max_seqlen rounded up to 32]); differentiable through out alone."""
    out, lse, *_ = forward_kernel(
        q[None], k[None], v[None], None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen,
        0.0, int(causal), True, scale=scale,
    )  # fmt: skip
    return out[0], lse


@operator.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    padded = -(-max_seqlen // 32) * 32
    lse = torch.empty((cu_seqlens.shape[0] - 1, q.shape[1], padded), dtype=torch.float32, device=q.device)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), lse


@torch.library.custom_op("hwsearch::efficient_attention_backward", mutates_args=())
def operator_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    # Seed and offset are read for dropout alone; without it the forward kernel gives them on the host.
    unused = torch.zeros((), dtype=torch.int64)
    dq, dk, dv, _ = backward_kernel(
        dout[None], q[None], k[None], v[None], None, out[None], cu_seqlens, cu_seqlens,
        max_seqlen, max_seqlen, lse, 0.0, unused, unused, int(causal), False, scale=scale,
    )  # fmt: skip
    return dq[0], dk[0], dv[0]


@operator_backward.register_fake
def _(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return dq, dk, dv


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens, *ctx.call = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, cu_seqlens)


def _differentiate(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = operator_backward(dout.contiguous(), *ctx.saved_tensors, *ctx.call)
    return *gradients, *[None] * 4


operator.register_autograd(_differentiate, setup_context=_save)
