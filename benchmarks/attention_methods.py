"""Our attention and its peers, each as a differentiable call on one batch.

A method that cannot serve a batch raises Unsupported with the reason; one that is not installed raises
ImportError. Shape suffixes: T tokens, B sequences, S longest sequence, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from attention_batch import Batch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hwsearch.kernels import attention_schedule, varlen_attention, varlen_attention_qkvpacked
from hwsearch.kernels.rotation import rotate

# q, k and v; or qkv alone.
Leaves = tuple[Tensor, ...]
Three = tuple[Tensor, Tensor, Tensor]


class Unsupported(Exception):
    """Why a method does not serve a batch."""


@dataclass(frozen=True)
class Prepared:
    """A method bound to a batch.

    Attributes:
        call: forward; as in training, so that what backward needs is kept.
        leaves: what backward differentiates in.
        dout: gradient of the output, shaped as `call` returns it.
        packed: output or one gradient as [T, H, D].
        split: the gradients of `leaves` as those of q, k and v.
        prepare: what is done once a batch for all layers, to be timed by itself.
    """

    call: Callable[[], Tensor]
    leaves: Leaves
    dout: Tensor
    packed: Callable[[Tensor], Tensor] = lambda x: x
    split: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = lambda gradients: gradients
    prepare: Callable[[], object] | None = None


def triton(b: Batch) -> Prepared:
    schedule = attention_schedule(b.cu_seqlens, b.q.shape[0], b.case.longest)
    leaves = _leaves(b)
    return Prepared(
        lambda: _ours(b, leaves, schedule=schedule),
        leaves,
        b.dout,
        prepare=lambda: attention_schedule(b.cu_seqlens, b.q.shape[0], b.case.longest),
    )


def triton_with_schedule(b: Batch) -> Prepared:
    """The work list is built in every call."""
    leaves = _leaves(b)
    return Prepared(lambda: _ours(b, leaves), leaves, b.dout)


def triton_rope(b: Batch) -> Prepared:
    schedule = attention_schedule(b.cu_seqlens, b.q.shape[0], b.case.longest)
    leaves = _leaves(b)
    return Prepared(lambda: _ours(b, leaves, schedule=schedule, rope=(b.cos, b.sin)), leaves, b.dout)


def triton_packed_rope(b: Batch) -> Prepared:
    """From qkv [T, 3, H, D] as a projection leaves it, with one gradient of that shape."""
    qkv = torch.stack((b.q, b.k, b.v), dim=1).requires_grad_()
    schedule = attention_schedule(b.cu_seqlens, b.q.shape[0], b.case.longest)

    def call() -> Tensor:
        return _tensor(
            varlen_attention_qkvpacked(
                qkv,
                b.cu_seqlens,
                b.case.longest,
                window=b.case.window,
                rope=(b.cos, b.sin),
                backend="triton",
                schedule=schedule,
            )
        )

    return Prepared(call, (qkv,), b.dout, split=lambda gradients: gradients[0].unbind(1))


def torch_flash(b: Batch) -> Prepared:
    leaves = _leaves(b)
    return Prepared(lambda: _torch_flash(b, *leaves), leaves, b.dout)


def torch_flash_rope(b: Batch) -> Prepared:
    """The rotation as its own kernel, which torch.compile writes; its tables are gathered beforehand."""
    leaves = _leaves(b)
    cos, sin = b.cos[b.position], b.sin[b.position]
    turn: Any = _compiled(_rotate_both) if b.q.is_cuda else _rotate_both

    def call() -> Tensor:
        q, k = turn(leaves[0], leaves[1], cos, sin)
        return _torch_flash(b, q, k, leaves[2])

    return Prepared(call, leaves, b.dout)


def flash_attn(b: Batch) -> Prepared:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    return _flash_package(b, flash_attn_varlen_func)


def fa3(b: Batch) -> Prepared:
    from flash_attn_interface import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    return _flash_package(b, flash_attn_varlen_func)


def fa4(b: Batch) -> Prepared:
    from flash_attn.cute import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    return _flash_package(b, flash_attn_varlen_func)


def flex(b: Batch) -> Prepared:
    """FlexAttention, compiled for these sizes, over one row of all tokens with a document and window mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if b.q.is_cuda and b.case.heads != 16:
        raise Unsupported("timed with 16 heads only: each count of heads is compiled for itself")
    sequence, window, tokens = b.sequence, b.case.window or 0, b.q.shape[0]

    def same_document(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return sequence[i] == sequence[j]

    def in_window(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (sequence[i] == sequence[j]) & ((i - j).abs() <= window)

    visible = same_document if b.case.window is None else in_window

    # Uncompiled, it would hold a [tokens, tokens] mask.
    create: Any = _compiled(create_block_mask) if b.q.is_cuda else create_block_mask

    def block_mask() -> Any:
        return create(visible, None, None, tokens, tokens, device=b.q.device)

    attend: Any = _compiled(flex_attention) if b.q.is_cuda else flex_attention
    mask = block_mask()
    leaves = _each(b, lambda x: x.transpose(0, 1)[None])
    return Prepared(
        lambda: _tensor(attend(*leaves, block_mask=mask)),
        leaves,
        b.dout.transpose(0, 1)[None],
        packed=lambda x: x[0].transpose(0, 1),
        prepare=block_mask,
    )


def cudnn(b: Batch) -> Prepared:
    """SDPA on cuDNN, of equal lengths as one rectangle."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if b.case.window is not None:
        raise Unsupported("SDPA has no window")
    prepared = _rectangle(b)

    def call() -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return prepared.call()

    return Prepared(call, prepared.leaves, prepared.dout, packed=prepared.packed)


def sdpa(b: Batch) -> Prepared:
    """SDPA as PyTorch chooses it: equal lengths without a mask, else padded to the longest with one."""
    if b.case.window is None and len(set(b.case.lengths)) == 1:
        return _rectangle(b)
    batch, longest, tokens = len(b.case.lengths), b.case.longest, b.q.shape[0]
    slots = b.sequence * longest + b.position

    def padded(x_THD: Tensor) -> Tensor:
        x = x_THD.new_zeros((batch * longest, *x_THD.shape[1:]))
        x[slots] = x_THD
        return x.view(batch, longest, *x_THD.shape[1:]).transpose(1, 2)

    leaves = _each(b, padded)
    mask = _padding_mask(b)
    return Prepared(
        lambda: scaled_dot_product_attention(*leaves, attn_mask=mask),
        leaves,
        padded(b.dout),
        packed=lambda x: x.transpose(1, 2).reshape(batch * longest, *b.q.shape[1:])[slots[:tokens]],
    )


# By importance within a case: a budget that runs out drops whole cases, never a peer of one.
METHODS: dict[str, Callable[[Batch], Prepared]] = {
    "triton": triton,
    "torch_flash": torch_flash,
    "flex": flex,
    "cudnn": cudnn,
    "flash_attn": flash_attn,
    "fa3": fa3,
    "fa4": fa4,
    "triton+schedule": triton_with_schedule,
    "triton+rope": triton_rope,
    "triton packed+rope": triton_packed_rope,
    "torch_flash+rope": torch_flash_rope,
    "sdpa padded": sdpa,
}


def _leaves(b: Batch) -> Three:
    return _each(b, lambda x: x)


def _each(b: Batch, shaped: Callable[[Tensor], Tensor]) -> Three:
    q, k, v = (shaped(x).detach().requires_grad_() for x in (b.q, b.k, b.v))
    return q, k, v


def _ours(b: Batch, leaves: Three, **options: Any) -> Tensor:
    q, k, v = leaves
    return _tensor(
        varlen_attention(
            q, k, v, b.cu_seqlens, b.case.longest, window=b.case.window, backend="triton", **options
        )
    )


def _tensor(found: Any) -> Tensor:
    """The output, from functions that may also return the log-sum-exp."""
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out


def _torch_flash(b: Batch, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    window = -1 if b.case.window is None else b.case.window
    out: Tensor = _TorchFlash.apply(q, k, v, b.cu_seqlens, b.case.longest, window)  # type: ignore[no-untyped-call]
    return out


class _TorchFlash(torch.autograd.Function):
    """PyTorch's own FlashAttention-2, the operators themselves: torch.nn.attention.varlen wraps the same."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cu: Tensor, longest: int, window: int) -> Tensor:
        ctx.windows = {} if window < 0 else {"window_size_left": window, "window_size_right": window}
        ctx.longest = longest
        out, lse, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu, cu, longest, longest, 0.0, False, False, **ctx.windows
        )
        ctx.save_for_backward(q, k, v, out, lse, cu, state, unused)
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, cu, state, unused = ctx.saved_tensors
        longest = ctx.longest
        gradients = torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, cu, cu, longest, longest, 0.0, False, state, unused, **ctx.windows
        )
        return *gradients, None, None, None


def _flash_package(b: Batch, function: Callable[..., Any]) -> Prepared:
    """flash-attn's varlen function; its generations take these arguments by the same place and name."""
    leaves = _leaves(b)
    options = {} if b.case.window is None else {"window_size": (b.case.window, b.case.window)}
    cu, longest = b.cu_seqlens, b.case.longest
    lengths = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
    return Prepared(lambda: _tensor(function(*leaves, **lengths, **options)), leaves, b.dout)


def _rectangle(b: Batch) -> Prepared:
    """SDPA over [B, H, S, D] views of the packed tokens."""
    if len(set(b.case.lengths)) != 1:
        raise Unsupported("lengths differ")
    batch, length = len(b.case.lengths), b.case.longest

    def view(x_THD: Tensor) -> Tensor:
        return x_THD.view(batch, length, *x_THD.shape[1:]).transpose(1, 2)

    leaves = _each(b, view)
    return Prepared(
        lambda: scaled_dot_product_attention(*leaves),
        leaves,
        view(b.dout),
        packed=lambda x: x.transpose(1, 2).reshape(b.q.shape),
    )


def _padding_mask(b: Batch) -> Tensor:
    """True where a key is seen, [B or 1, 1, S or 1, S]; padding sees every real key, lest it turn NaN."""
    place = torch.arange(b.case.longest, device=b.q.device)
    real_BS = place[None, :] < b.cu_seqlens.diff()[:, None]
    if b.case.window is None:
        return real_BS[:, None, None, :]
    near_SS = (place[:, None] - place[None, :]).abs() <= b.case.window
    if len(set(b.case.lengths)) == 1:
        return near_SS[None, None]
    return ((near_SS | ~real_BS[:, :, None]) & real_BS[:, None, :])[:, None]


def _rotate_both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate(q, cos, sin), rotate(k, cos, sin)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for the sizes of every call by themselves, the best that each can be."""
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = 64
    # A compiled backward may else reuse the memory of what forward saved, and refuses retain_graph.
    torch._functorch.config.donated_buffer = False
    return torch.compile(function, dynamic=False)
