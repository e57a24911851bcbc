"""One run of attention on a batch, as it is timed, and where it leaves its outputs.

Each function returns (a run; the outputs of the last run, by name): out [T, H, D], lse [H, T], dq, dk and
dv [T, H, D].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hwsearch.kernels import varlen_attention_qkvpacked
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.configs import Tiles
from hwsearch.tuning.attention_batch import Batch

Run = tuple[Callable[[], object], Callable[[], dict[str, Tensor]]]


def forward(batch: Batch, tiles: Tiles) -> Run:
    call, qkv = _call(batch, tiles), batch.qkv_THD
    written: dict[str, Tensor] = {}
    _poison(batch)

    def run() -> None:
        written["out"], written["lse"] = launch.forward(*qkv, call)

    return run, lambda: written


def backward(batch: Batch, tiles: Tiles, default: Tiles) -> Run:
    """Backward alone, after a forward with the default tiles."""
    call, qkv = _call(batch, tiles), batch.qkv_THD
    out, lse = launch.forward(*qkv, _call(batch, default))
    gradient = torch.full_like(batch.qkv, torch.nan)
    dq, dk, dv = gradient.unbind(1)

    def run() -> None:
        launch.backward(batch.dout, None, *qkv, out, lse, call, dq, dk, dv)

    return run, lambda: {"dq": dq, "dk": dk, "dv": dv}


def backend(batch: Batch, name: str) -> Run:
    written: dict[str, Tensor] = {}
    _poison(batch)

    def run() -> None:
        with torch.no_grad():
            written["out"] = _attend(batch, batch.qkv, name)

    return run, lambda: written


def backend_training(batch: Batch, name: str) -> Run:
    """Forward and backward."""
    qkv = batch.qkv.detach().requires_grad_()
    written: dict[str, Tensor] = {}
    _poison(batch)

    def run() -> None:
        out = _attend(batch, qkv, name)
        (gradient,) = torch.autograd.grad(out, qkv, batch.dout)
        written["out"] = out
        written["dq"], written["dk"], written["dv"] = gradient.unbind(1)

    return run, lambda: written


def _call(batch: Batch, tiles: Tiles) -> launch.Call:
    return launch.Call(
        batch.schedule,
        len(batch.lengths),
        batch.max_seqlen,
        -1 if batch.window is None else batch.window,
        False,
        batch.qkv.shape[3] ** -0.5,
        batch.cos,
        batch.sin,
        tiles,
    )


def _attend(batch: Batch, qkv: Tensor, name: str) -> Tensor:
    out: Tensor = varlen_attention_qkvpacked(
        qkv,
        batch.cu_seqlens,
        batch.max_seqlen,
        window=batch.window,
        rope=(batch.cos, batch.sin),
        backend=name,
        schedule=batch.schedule,
    )
    return out


def _poison(batch: Batch) -> None:
    """Leave numbers that are none where the allocator will put the outputs: what is not written shows."""
    for like in (batch.dout, batch.qkv, batch.dout[:, :, 0].float()):
        torch.full_like(like, torch.nan)
