"""The feed-forward's gated GELU, in one pass over memory where hwsearch's C++ kernels serve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .cpu_kernels.library import ROW_MULTIPLE, library, why_none
from .cpu_kernels.threads import threads


def gated_gelu(inner: Tensor) -> Tensor:
    """gelu(a) * b of inner [..., 2 I] = [a, b], the exact GELU by the normal distribution: [..., I].

    float32 on a CPU goes to the C++ kernels, where a compiler is at hand and I is a multiple of 16; in a
    graph of torch.compile it is torch's own, which is fused there.
    """
    columns, odd = divmod(inner.shape[-1], 2)
    if odd:
        raise ValueError(f"inner: shape {tuple(inner.shape)}; accepted: an even last dimension")
    native = inner.device.type == "cpu" and inner.dtype == torch.float32 and columns % ROW_MULTIPLE == 0
    if native and not torch.compiler.is_compiling() and why_none() is None:
        out: Tensor = _GatedGelu.apply(inner)  # type: ignore[no-untyped-call]
        return out
    a, b = inner.chunk(2, dim=-1)
    return F.gelu(a) * b


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inner: Tensor) -> Tensor:
        inner = inner.contiguous()
        ctx.save_for_backward(inner)
        out = inner.new_empty((*inner.shape[:-1], inner.shape[-1] // 2))
        library().gated_gelu_forward(inner.data_ptr(), *_sizes(out), out.data_ptr())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (inner,) = ctx.saved_tensors
        dout, dinner = dout.contiguous(), torch.empty_like(inner)
        library().gated_gelu_backward(inner.data_ptr(), dout.data_ptr(), *_sizes(dout), dinner.data_ptr())
        return dinner


def _sizes(out: Tensor) -> tuple[int, int, int]:
    """Rows, columns, threads."""
    columns = out.shape[-1]
    return out.numel() // max(columns, 1), columns, threads()
