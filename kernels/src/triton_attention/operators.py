"""The Triton kernels as torch operators, through which autograd, torch.compile and CUDA graphs see.

They take arguments that are already checked. `window` is -1 where every key of the sequence is seen.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import launch
from .launch import Call


@torch.library.custom_op("hwsearch::varlen_attention", mutates_args=())
def attend(
    q: Tensor, k: Tensor, v: Tensor, schedule: Tensor, sequences: int, max_seqlen: int,
    window: int, causal: bool, scale: float, cos: Tensor | None, sin: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out [T, H, D], lse [H, T]); differentiable in q, k and v, through both outputs."""
    call = Call(schedule, sequences, max_seqlen, window, causal, scale, cos, sin)
    with _device_of(q):
        return launch.forward(q, k, v, call)


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), _empty_lse(q)


@torch.library.custom_op("hwsearch::varlen_attention_backward", mutates_args=())
def attend_backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    schedule: Tensor, sequences: int, max_seqlen: int,
    window: int, causal: bool, scale: float, cos: Tensor | None, sin: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    call = Call(schedule, sequences, max_seqlen, window, causal, scale, cos, sin)
    with _device_of(q):
        launch.backward(dout, dlse, q, k, v, out, lse, call, dq, dk, dv)
    return dq, dk, dv


@attend_backward.register_fake
def _(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    return dq, dk, dv


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, schedule, sequences, max_seqlen, window, causal, scale, cos, sin = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output, schedule, cos, sin)
    ctx.call = (sequences, max_seqlen, window, causal, scale)


def _differentiate(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, schedule, cos, sin = ctx.saved_tensors
    dout, dlse = _readable(dout, dlse, out)
    gradients = attend_backward(dout, dlse, q, k, v, out, lse, schedule, *ctx.call, cos, sin)
    return *gradients, *[None] * 8


attend.register_autograd(_differentiate, setup_context=_save)


@torch.library.custom_op("hwsearch::varlen_attention_qkvpacked", mutates_args=())
def attend_packed(
    qkv: Tensor, schedule: Tensor, sequences: int, max_seqlen: int,
    window: int, causal: bool, scale: float, cos: Tensor | None, sin: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `attend`, of qkv [T, 3, H, D]: read in place, and one gradient written in place."""
    call = Call(schedule, sequences, max_seqlen, window, causal, scale, cos, sin)
    q, k, v = qkv.unbind(1)
    with _device_of(q):
        return launch.forward(q, k, v, call)


@attend_packed.register_fake
def _(qkv: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    q = qkv[:, 0]
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), _empty_lse(q)


@torch.library.custom_op("hwsearch::varlen_attention_qkvpacked_backward", mutates_args=())
def attend_packed_backward(
    dout: Tensor, dlse: Tensor | None, qkv: Tensor, out: Tensor, lse: Tensor,
    schedule: Tensor, sequences: int, max_seqlen: int,
    window: int, causal: bool, scale: float, cos: Tensor | None, sin: Tensor | None,
) -> Tensor:  # fmt: skip
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    call = Call(schedule, sequences, max_seqlen, window, causal, scale, cos, sin)
    q, k, v = qkv.unbind(1)
    dq, dk, dv = dqkv.unbind(1)
    with _device_of(q):
        launch.backward(dout, dlse, q, k, v, out, lse, call, dq, dk, dv)
    return dqkv


@attend_packed_backward.register_fake
def _(dout: Tensor, dlse: Tensor | None, qkv: Tensor, *rest: Any) -> Tensor:
    return torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)


def _save_packed(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, schedule, sequences, max_seqlen, window, causal, scale, cos, sin = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, *output, schedule, cos, sin)
    ctx.call = (sequences, max_seqlen, window, causal, scale)


def _differentiate_packed(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, out, lse, schedule, cos, sin = ctx.saved_tensors
    dout, dlse = _readable(dout, dlse, out)
    gradient = attend_packed_backward(dout, dlse, qkv, out, lse, schedule, *ctx.call, cos, sin)
    return gradient, *[None] * 8


attend_packed.register_autograd(_differentiate_packed, setup_context=_save_packed)


def _empty_lse(q: Tensor) -> Tensor:
    return torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device=q.device)


def _readable(dout: Tensor | None, dlse: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor | None]:
    """The gradients as the kernels read them; autograd leaves out unused ones and expands that of a sum."""
    if dout is None:
        dout = torch.zeros_like(out)
    elif dout.stride(-1) != 1:
        dout = dout.contiguous()
    return dout, None if dlse is None else dlse.contiguous()


def _device_of(x: Tensor) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
