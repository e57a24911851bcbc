"""The flash kernel inside PyTorch: FlashAttention-2, or what activate_flash_attention_impl put there.

As an operator of our own: that of torch.nn.attention.varlen has other arguments in every release.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem
from .log_sum_exp import with_gradient
from .packed import rotated, with_contiguous_heads

forward_kernel: Any = torch.ops.aten._flash_attention_forward
backward_kernel: Any = torch.ops.aten._flash_attention_backward


def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor | None]:
    q, k = rotated(q, k, problem)
    q, k, v = (with_contiguous_heads(x) for x in (q, k, v))
    offsets = problem.cu_seqlens.to(torch.int32).contiguous()
    window = -1 if problem.window is None else problem.window

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = operator(q, k, v, offsets, problem.max_seqlen, window, problem.causal, problem.scale)
        return out, lse

    out, lse = attention(q, k, v)
    if not problem.return_lse:
        return out, None
    return out, with_gradient(lse, lambda q, k, v: attention(q, k, v)[0], q, k, problem.scale)


@torch.library.custom_op("hwsearch::torch_flash", mutates_args=())
def operator(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, window: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out [T, H, D], lse [H, T]); differentiable through out alone. `window` -1: all keys."""
    out, lse, *_ = forward_kernel(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, _is_causal(window, causal), False,
        scale=scale, window_size_left=window, window_size_right=0 if causal else window,
    )  # fmt: skip
    return out, lse


@operator.register_fake
def _(q: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device=q.device)


@torch.library.custom_op("hwsearch::torch_flash_backward", mutates_args=())
def operator_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, window: int, causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    # Read for dropout alone.
    random_state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    unused = torch.empty(0, device=q.device)
    dq, dk, dv = backward_kernel(
        dout, q, k, v, out, lse, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0,
        _is_causal(window, causal), random_state, unused,
        scale=scale, window_size_left=window, window_size_right=0 if causal else window,
    )  # fmt: skip
    return dq, dk, dv


@operator_backward.register_fake
def _(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _is_causal(window: int, causal: bool) -> bool:
    # With a window on the left, its right side of 0 says it.
    return causal and window < 0


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens, *ctx.call = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, cu_seqlens)


def _differentiate(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = operator_backward(with_contiguous_heads(dout), *ctx.saved_tensors, *ctx.call)
    return *gradients, *[None] * 5


operator.register_autograd(_differentiate, setup_context=_save)
