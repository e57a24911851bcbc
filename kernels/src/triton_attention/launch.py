"""Launches the attention kernels on tensors that are known to fit each other.

Shapes: q [T, H, D]; k, v [T, G, D]; cos, sin [positions, D / 2] in float32; lse [H, T] in float32, in
natural logarithms; schedule as `attention_schedule` returns it. Only the head dimension must be
contiguous.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ..arguments import DTYPES
from ..tuned import Config, Key, length_class, until_forgotten, window_class
from ..tuned_call import tuned_on
from .backward import delta_kernel, dkdv_kernel, dq_kernel, short_backward_kernel
from .configs import (
    DELTA_TILE,
    ROTATION_TILE,
    TILE_SIZES,
    Tile,
    Tiles,
    default_tiles,
    has_inner_blocks,
    launch_options,
)
from .forward import forward_kernel
from .rotation import rotate_kernel
from .tuned_tiles import tiles_of


@dataclass(frozen=True)
class Call:
    """What is the same for all kernels of one call. `window` -1: every key of the sequence.

    `tiles` are those to run with, as a tuner or a benchmark sets them; None: `tiles_for`.
    """

    schedule: Tensor
    sequences: int
    max_seqlen: int
    window: int
    causal: bool
    scale: float
    cos: Tensor | None
    sin: Tensor | None
    tiles: Tiles | None = None

    @property
    def local(self) -> bool:
        """Whether the window hides a key of any sequence."""
        return 0 <= self.window < self.max_seqlen - 1

    @property
    def visible(self) -> int | None:
        """Keys to each side, None where the window hides nothing."""
        return self.window if self.local else None


def forward(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """(out [T, H, D] in q's dtype, contiguous; lse [H, T])."""
    tokens, heads, size = q.shape
    out = torch.empty((tokens, heads, size), dtype=q.dtype, device=q.device)
    lse = torch.empty((heads, tokens), dtype=torch.float32, device=q.device)
    if tokens:
        _with_tiles(q, call, partial(_forward, q, k, v, out, lse, call))
    return out, lse


def _forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, tiles: Tiles) -> None:
    tokens, heads, size = q.shape
    rope = call.cos is not None
    if rope and not tiles.rotate_in_forward:
        k = _rotated(k, call)
    tile = tiles.forward
    forward_kernel[_grid(call, tokens, tile.rows, heads)](
        q, k, v, out, lse, call.cos, call.sin, _entries(call, tile.rows),
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        out.stride(0), tokens, call.max_seqlen, call.scale / log(2), call.window,
        GROUP=heads // k.shape[1], D=size, M=tile.rows, N=tile.columns,
        LOCAL=call.local, CAUSAL=call.causal, ROTATE_Q=rope, ROTATE_K=rope and tiles.rotate_in_forward,
        SPLIT=_split(call, tile), PRECISION=_precision(q), **launch_options(tile),
    )  # fmt: skip


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    call: Call, dq: Tensor, dk: Tensor, dv: Tensor,
) -> None:  # fmt: skip
    """Fill dq, dk and dv, of the shapes of q, k and v and any strides."""
    if q.shape[0]:
        _with_tiles(q, call, partial(_backward, dout, dlse, q, k, v, out, lse, call, dq, dk, dv))


def _backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    call: Call, dq: Tensor, dk: Tensor, dv: Tensor, tiles: Tiles,
) -> None:  # fmt: skip
    tokens, heads, size = q.shape
    common = {
        "GROUP": heads // k.shape[1],
        "D": size,
        "LOCAL": call.local,
        "CAUSAL": call.causal,
        "PRECISION": _precision(q),
    }
    rotate = call.cos is not None and tiles.rotate_in_backward
    if call.cos is not None and not rotate:
        q, k = _rotated(q, call), _rotated(k, call)
    common |= {"ROTATE": rotate, "UNROTATE": call.cos is not None}
    if tiles.short is not None:
        tile = tiles.short
        short_backward_kernel[_grid(call, tokens, tile.rows, k.shape[1])](
            q, k, v, out, dout, lse, dlse, dq, dk, dv, call.cos, call.sin, _entries(call, tile.rows),
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
            out.stride(0), out.stride(1), dout.stride(0), dout.stride(1),
            dq.stride(0), dq.stride(1), dk.stride(0), dk.stride(1), dv.stride(0), dv.stride(1),
            tokens, call.max_seqlen, call.scale, call.window, M=tile.rows, HAS_DLSE=dlse is not None,
            **launch_options(tile), **common,
        )  # fmt: skip
        return
    delta = torch.empty_like(lse)
    delta_kernel[(triton.cdiv(tokens, DELTA_TILE.rows), heads)](
        out, dout, dlse, delta, tokens,
        out.stride(0), out.stride(1), dout.stride(0), dout.stride(1),
        D=size, M=DELTA_TILE.rows, HAS_DLSE=dlse is not None, **launch_options(DELTA_TILE),
    )  # fmt: skip
    inputs = (q, k, v, dout, lse, delta)
    strides = (
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        dout.stride(0), dout.stride(1),
    )  # fmt: skip
    tile = tiles.dkdv
    dkdv_kernel[_grid(call, tokens, tile.rows, k.shape[1])](
        *inputs, dk, dv, call.cos, call.sin, _entries(call, tile.rows),
        *strides, dk.stride(0), dk.stride(1), dv.stride(0), dv.stride(1),
        tokens, call.max_seqlen, call.scale, call.window,
        N=tile.rows, M=tile.columns, SPLIT=_split(call, tile), **launch_options(tile), **common,
    )  # fmt: skip
    tile = tiles.dq
    dq_kernel[_grid(call, tokens, tile.rows, heads)](
        *inputs, dq, call.cos, call.sin, _entries(call, tile.rows),
        *strides, dq.stride(0), dq.stride(1), tokens, call.max_seqlen, call.scale, call.window,
        M=tile.rows, N=tile.columns, SPLIT=_split(call, tile), **launch_options(tile), **common,
    )  # fmt: skip


def _rotated(x: Tensor, call: Call) -> Tensor:
    tokens, heads, size = x.shape
    rows = ROTATION_TILE.rows
    out = torch.empty((tokens, heads, size), dtype=x.dtype, device=x.device)
    rotate_kernel[_grid(call, tokens, rows, heads)](
        x, out, call.cos, call.sin, _entries(call, rows),
        x.stride(0), x.stride(1), out.stride(0), out.stride(1), tokens, call.max_seqlen,
        D=size, M=rows, **launch_options(ROTATION_TILE),
    )  # fmt: skip
    return out


# Tuned tiles that turned out not to fit, as under another Triton than the table's.
_too_large: set[Tiles] = set()


def _with_tiles(q: Tensor, call: Call, run: Callable[[Tiles], None]) -> None:
    """Run with the tiles of the call; with the defaults where tuned ones take more than the GPU has."""
    tiles = _tiles(q, call)
    default = partial(untuned_tiles, q.device, q.dtype, q.shape[2], call.visible, call.max_seqlen)
    if _too_large and call.tiles is None and tiles in _too_large:
        tiles = default()
    try:
        run(tiles)
    except OutOfResources as error:
        if call.tiles is not None or tiles == default():
            raise
        _too_large.add(tiles)
        warnings.warn(f"tuned tiles do not fit, the defaults run: {tiles}: {error}", stacklevel=2)
        run(default())


def _tiles(q: Tensor, call: Call) -> Tiles:
    if call.tiles is not None:
        return call.tiles
    return tiles_for(q.device, q.dtype, q.shape[2], call.visible, call.max_seqlen, call.causal)


@until_forgotten
def tiles_for(
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    window: int | None,
    max_seqlen: int,
    causal: bool,
) -> Tiles:
    """What a call runs with: tuned tiles where there are any, else `default_tiles`.

    `window` is None where it hides nothing.
    """
    default = untuned_tiles(device, dtype, head_size, window, max_seqlen)
    if causal:
        return default
    key = Key(DTYPES[dtype], head_size, window_class(window, max_seqlen), length_class(max_seqlen))
    return tiles_of(*_tuned(device, key), default)


def untuned_tiles(
    device: torch.device, dtype: torch.dtype, head_size: int, window: int | None, max_seqlen: int
) -> Tiles:
    # The interpreter on a CPU takes an A100's tiles.
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)
    return default_tiles(capability, dtype.itemsize, head_size, window is not None, max_seqlen)


@until_forgotten
def _tuned(device: torch.device, key: Key) -> tuple[Config | None, Config | None]:
    """Configurations of forward and backward, None where there is none."""
    forward, backward = (tuned_on(device, f"attention_{which}", key).row for which in ("forward", "backward"))
    return None if forward is None else forward.config, None if backward is None else backward.config


def _split(call: Call, tile: Tile) -> bool:
    if tile.split is not None:
        return tile.split
    return has_inner_blocks(tile, call.window if call.local else -1, call.max_seqlen)


def _grid(call: Call, tokens: int, rows: int, heads: int) -> tuple[int, int]:
    """As many slots as tiles can be, by what the host knows: tokens, sequences and the longest one."""
    most = min(tokens // rows + call.sequences, call.sequences * triton.cdiv(call.max_seqlen, rows))
    return most, heads


def _entries(call: Call, rows: int) -> Tensor:
    return call.schedule[TILE_SIZES.index(rows)]


def _precision(q: Tensor) -> str:
    # Three TF32 products keep float32's accuracy on tensor cores; 16-bit inputs ignore this.
    return "tf32x3" if q.dtype == torch.float32 else "tf32"
