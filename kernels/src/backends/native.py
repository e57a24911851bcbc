"""hwsearch's C++ kernels for CPUs."""

from __future__ import annotations

from ctypes import byref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..cpu_kernels import library as native
from ..cpu_kernels.threads import threads
from ..problem import Problem
from .packed import rotated, with_contiguous_heads


# Traced, it would be built again for every batch: memory's addresses are handed over.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    if _learns_angles(problem):
        q, k = rotated(q, k, problem)
        problem = replace(problem, rope=None)
    q, k, v = (with_contiguous_heads(x) for x in (q, k, v))
    out, lse = _Attention.apply(q, k, v, _with_own_offsets(problem))  # type: ignore[no-untyped-call]
    return out, lse


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend_packed(qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    if _learns_angles(problem):
        out, lse = attend(*qkv.unbind(1), problem)
        return out, lse
    qkv, problem = with_contiguous_heads(qkv), _with_own_offsets(problem)
    out, lse = _PackedAttention.apply(qkv, problem)  # type: ignore[no-untyped-call]
    return out, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        out, lse = _forward(q, k, v, problem)
        ctx.set_materialize_grads(False)
        ctx.problem = problem
        ctx.save_for_backward(q, k, v, out, lse, *(problem.rope or ()))
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, *_ = ctx.saved_tensors  # which raises where the angles were changed since
        gradients = tuple(x.new_empty(x.shape) for x in (q, k, v))
        _backward((q, k, v), ctx.problem, out, lse, dout, dlse, gradients)
        return *gradients, None


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        q, k, v = qkv.unbind(1)
        out, lse = _forward(q, k, v, problem)
        ctx.set_materialize_grads(False)
        ctx.problem = problem
        ctx.save_for_backward(qkv, out, lse, *(problem.rope or ()))
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, out, lse, *_ = ctx.saved_tensors
        dqkv = qkv.new_empty(qkv.shape)
        _backward(qkv.unbind(1), ctx.problem, out, lse, dout, dlse, dqkv.unbind(1))
        return dqkv, None


def _learns_angles(problem: Problem) -> bool:
    return problem.rope is not None and any(table.requires_grad for table in problem.rope)


def _with_own_offsets(problem: Problem) -> Problem:
    """The kernels take them at their word, again in the backward pass, and loaders fill theirs anew."""
    return replace(problem, cu_seqlens=problem.cu_seqlens.to(torch.int64, copy=True))


def _forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Out [T, H, D] and the log-sum-exp [H, T]."""
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[1], q.shape[0])
    asked = _Asked(q, k, v, problem, out, lse)
    _check(native.library().attention_forward(byref(asked.problem)))
    return out, lse


def _backward(
    inputs: tuple[Tensor, ...],
    problem: Problem,
    out: Tensor,
    lse: Tensor,
    dout: Tensor | None,
    dlse: Tensor | None,
    gradients: tuple[Tensor, ...],
) -> None:
    """Fills `gradients`, those of the inputs q, k and v."""
    q, k, v = inputs
    asked = _Asked(q, k, v, problem, out, lse)
    dout = torch.zeros_like(out) if dout is None else with_contiguous_heads(dout)
    dlse = None if dlse is None else dlse.contiguous()
    address = None if dlse is None else dlse.data_ptr()
    given = native.Gradients(_heads(dout), address, *map(_heads, gradients))
    _check(native.library().attention_backward(byref(asked.problem), byref(given)))


class _Asked:
    """The call as the library takes it, and the tensors made for it, which must live as long.

    p.cu_seqlens are int64, as `_with_own_offsets` has them.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, p: Problem, out: Tensor, lse: Tensor) -> None:
        self._rope = [table.to(torch.float32).contiguous() for table in p.rope or ()]
        cosines, sines = (table.data_ptr() for table in self._rope) if self._rope else (None, None)
        self.problem = native.Problem(
            *map(_heads, (q, k, v)),
            heads=q.shape[1],
            groups=k.shape[1],
            size=q.shape[2],
            offsets=p.cu_seqlens.data_ptr(),
            sequences=len(p.cu_seqlens) - 1,
            tokens=q.shape[0],
            cosines=cosines,
            sines=sines,
            window=-1 if p.window is None else p.window,
            causal=p.causal,
            scale=p.scale,
            threads=threads(),
            out=_heads(out),
            lse=lse.data_ptr(),
        )


def _heads(x_THD: Tensor) -> native.Heads:
    return native.Heads(x_THD.data_ptr(), *x_THD.stride()[:2])


def _check(status: int) -> None:
    if status:
        raise MemoryError("attention: no memory for one sequence's copies on each thread")
