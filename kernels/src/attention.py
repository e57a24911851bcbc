"""Attention over packed sequences of any lengths: the public functions.

Shape suffixes: T tokens of all sequences, H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

from functools import cache
from operator import index
from os import environ
from types import ModuleType
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import dispatch
from .arguments import (
    DTYPES,
    MOST,
    assert_offsets,
    check_flag,
    check_heads,
    check_qkv,
    check_rope,
    check_schedule,
    check_sequences,
    max_seqlen_of,
    scale_of,
    window_of,
)
from .problem import Problem
from .tuned import DEFAULT, LENGTHS, Key, length_class, until_forgotten, window_class
from .tuned_call import tuned_on


@overload
def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    rope: tuple[Tensor, Tensor] | None = ...,
    backend: str | None = ...,
    return_lse: Literal[False] = ...,
    schedule: Tensor | None = ...,
) -> Tensor: ...
@overload
def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    rope: tuple[Tensor, Tensor] | None = ...,
    backend: str | None = ...,
    return_lse: Literal[True],
    schedule: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
    return_lse: bool = False,
    schedule: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention inside each packed sequence, never across them; no padding is computed.

    Args:
        q: queries [T, H, D], of float16, bfloat16, float32 or float64, with any strides.
        k: keys [T, G, D] with H a multiple of G: query head i reads key head i // (H / G).
        v: values [T, G, D].
        cu_seqlens: int32 or int64 [sequences + 1], offsets from 0 to T; empty sequences are allowed.
        max_seqlen: at least the longest sequence.
        window: keys visible to each side: |i - j| <= window, so 64 shows up to 129 keys.
        causal: hide keys after the query.
        scale: positive factor on the scores, D**-0.5 by default.
        rope: (cos, sin), each [>= max_seqlen, D/2]; rotates q and k by halves (element d with
            d + D/2), positions restart at 0 with every sequence. Computed in float32 at least.
        backend: one of hwsearch.kernels.dispatch.BACKENDS; by default the one that
            `hwsearch gpus show` names.
        return_lse: also return the log-sum-exp of the scaled scores, float32 [H, T].
        schedule: attention_schedule(cu_seqlens, T, max_seqlen), to build it once for all layers;
            only the triton backend reads it.

    Returns:
        [T, H, D] in q's dtype, which is that of autocast where it is on (float64 aside); with
        `return_lse` (out, lse). Differentiable in q, k and v through both.

    Raises ValueError, which begins with the argument's name. The values of cu_seqlens are not read where
    that would wait for a GPU, nor in compiled code. There the device asserts them (torch._assert_async:
    a CUDA device-side assertion, like that for a bad index): in attention_schedule, and in each call of
    another backend or without a schedule. A schedule is taken at its word: that it was built for these
    offsets and this max_seqlen is not checked on a GPU.
    """
    q, k, v = (_autocast(x) for x in (q, k, v))
    check_heads(q, k, v)
    problem = _problem(q, cu_seqlens, max_seqlen, window, causal, scale, rope, schedule, return_lse)
    module = _backend(backend, q, problem, torch.is_grad_enabled() and _wants_gradient(q, k, v))
    out, lse = _nothing(q, k, v) if q.shape[0] == 0 else module.attend(q, k, v, problem)
    return (out, lse) if return_lse else out


@overload
def varlen_attention_qkvpacked(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    rope: tuple[Tensor, Tensor] | None = ...,
    backend: str | None = ...,
    return_lse: Literal[False] = ...,
    schedule: Tensor | None = ...,
) -> Tensor: ...
@overload
def varlen_attention_qkvpacked(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    rope: tuple[Tensor, Tensor] | None = ...,
    backend: str | None = ...,
    return_lse: Literal[True],
    schedule: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def varlen_attention_qkvpacked(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    backend: str | None = None,
    return_lse: bool = False,
    schedule: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `varlen_attention`, of qkv [T, 3, H, D]: read where it lies, and one gradient [T, 3, H, D]."""
    qkv = _autocast(qkv)
    check_qkv(qkv)
    q, k, v = qkv.unbind(1)
    problem = _problem(q, cu_seqlens, max_seqlen, window, causal, scale, rope, schedule, return_lse)
    module = _backend(backend, q, problem, torch.is_grad_enabled() and qkv.requires_grad)
    if qkv.shape[0] == 0:
        out, lse = _nothing(q, k, v)
    elif hasattr(module, "attend_packed"):
        out, lse = module.attend_packed(qkv, problem)
    else:
        out, lse = module.attend(q, k, v, problem)
    return (out, lse) if return_lse else out


def _autocast(x: Tensor) -> Tensor:
    """`x` as scaled_dot_product_attention takes it under torch.autocast."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return x
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def _problem(
    q: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int | None,
    causal: bool,
    scale: float | None,
    rope: tuple[Tensor, Tensor] | None,
    schedule: Tensor | None,
    return_lse: bool,
) -> Problem:
    max_seqlen = max_seqlen_of(max_seqlen)
    check_sequences(cu_seqlens, max_seqlen, q)
    window = window_of(window)
    check_flag("causal", causal)
    scale = scale_of(scale, q.shape[2])
    if rope is not None:
        check_rope(rope, max_seqlen, q)
    check_flag("return_lse", return_lse)
    if schedule is not None:
        check_schedule(schedule, cu_seqlens, q.shape[0])
    return Problem(cu_seqlens, max_seqlen, window, causal, scale, rope, schedule, return_lse)


def _wants_gradient(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return q.requires_grad or k.requires_grad or v.requires_grad


def _nothing(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The answer for no tokens, which still hangs on q, k and v for autograd."""
    lse = torch.empty((q.shape[1], 0), dtype=torch.float32, device=q.device)
    return q + (k.sum() + v.sum()), lse


def _backend(forced: str | None, q: Tensor, problem: Problem, training: bool) -> ModuleType:
    # index() makes a number of what torch.compile(dynamic=True) takes for a variable.
    # Of the window its class alone, or a compiled model would be built again for each width.
    window = window_class(problem.window, MOST + 2)
    call = (q.device, q.dtype, index(q.shape[2]), window, problem.causal, training)
    if forced is None:
        name = _default(problem.max_seqlen, problem.window, *call)
    else:
        _check_backend(forced, *call)
        name = forced
    if name != "triton":  # for which attention_schedule does it
        assert_offsets(problem.cu_seqlens, problem.max_seqlen, q.shape[0])
    return _module(name)


def default_backend(
    dtype: torch.dtype,
    head_size: int,
    max_seqlen: int,
    *,
    window: int | None = None,
    training: bool = False,
    device: torch.device,
) -> str:
    """The backend that serves a call of varlen_attention, not causal, in which none is forced.

    `training` says that gradients are wanted, `dtype` is that of q, or of autocast.
    """
    return _default(
        max_seqlen, window, device, dtype, head_size, window_class(window, MOST + 2), False, training
    )


def _default(length: int, window: int | None, *call: Any) -> str:
    names: tuple[str, ...] = _chosen(*call)
    # A compiled model must not depend on the length where the choice does not.
    if len(set(names)) == 1:
        return names[0]
    hides = window_class(window, length) != "global"
    return names[LENGTHS.index(length_class(length)) + (len(LENGTHS) if hides else 0)]


# torch.compile calls the two while it traces, and keeps what they return.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chosen(*call: Any) -> tuple[str, ...]:
    """The backend's name for each of LENGTHS where the window hides nothing, then for each where it does."""
    return _choose(*call)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _check_backend(forced: str, *call: Any) -> None:
    dispatch.check_backend(forced, _call(*call))


@until_forgotten
def _choose(
    device: torch.device, dtype: torch.dtype, head_size: int, window: str, causal: bool, training: bool
) -> tuple[str, ...]:
    call = _call(device, dtype, head_size, window, causal, training)
    table = dispatch.backend_table(training)
    keys = [Key(DTYPES[dtype], head_size, w, n) for w in dict.fromkeys(("global", window)) for n in LENGTHS]
    found = [DEFAULT if causal else tuned_on(device, table, key) for key in keys]
    return tuple(dispatch.choose(call, each).backend for each in found)


@cache
def _call(
    device: torch.device, dtype: torch.dtype, head_size: int, window: str, causal: bool, training: bool
) -> dispatch.Call:
    return dispatch.Call(
        device=device.type,
        capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        dtype=DTYPES[dtype],
        head_size=head_size,
        local=window != "global",
        training=training,
        packages=dispatch.installed_packages(),
        # As Triton reads it.
        interpreted=environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y"),
    )


def _module(name: str) -> ModuleType:
    # Plain imports: torch.compile does not trace importlib.
    match name:
        case "triton":
            from .backends import triton

            return triton
        case "flash_attn":
            from .backends import flash_attn

            return flash_attn
        case "torch_flash":
            from .backends import torch_flash

            return torch_flash
        case "efficient":
            from .backends import efficient

            return efficient
        case "native":
            from .backends import native

            return native
        case "sdpa":
            from .backends import sdpa

            return sdpa
    from .backends import cpu

    return cpu
