"""A sequence of 8,192 tokens, of which the interpreter is given a few tiles and PyTorch all."""

from __future__ import annotations

import pytest
import torch
from attention_truth import DEVICE, Case, error, pytorch, truth, with_gradients

from hwsearch.kernels import attention_schedule
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.configs import Tile, Tiles

LENGTH = 8192
ROWS = 128


@pytest.mark.parametrize(("window", "firsts"), [(None, (4096,)), (64, (0, 4096, LENGTH - ROWS))])
def test_tiles_of_a_long_sequence(window, firsts):
    """Rotated as they are loaded, which defaults leave to short sequences."""
    case = Case((LENGTH,), dtype=torch.bfloat16, size=32, window=window, rope=True)
    q, k, v = case.qkv()
    (dout,) = case.random(1, seed=1)
    peer, right = (with_gradients(attention, q, k, v, case, dout) for attention in (pytorch, truth))

    schedule = attention_schedule(case.cu_seqlens(), LENGTH, LENGTH)
    kept = torch.isin(schedule[:, :, 2] // ROWS * ROWS, torch.tensor(firsts, device=DEVICE))
    local = window is not None
    call = launch.Call(
        torch.where(kept[:, :, None], schedule, 0).contiguous(), 1, LENGTH, window if local else -1, False,
        case.size**-0.5, *case.rope_tables(), Tiles(*3 * [Tile(ROWS, ROWS, 8, 2)], None, True, True),
    )  # fmt: skip
    found = dict(zip(("out", "lse"), launch.forward(q, k, v, call), strict=True))
    gradients = {name: torch.full_like(x, torch.nan) for name, x in (("dq", q), ("dk", k), ("dv", v))}
    # Other tiles' queries are right, as if all had been computed.
    out, lse = right["out"].to(case.dtype), right["lse"].float()
    launch.backward(dout, None, q, k, v, out, lse, call, *gradients.values())
    found |= gradients

    rows = torch.cat([torch.arange(first, first + ROWS) for first in firsts]).to(DEVICE)
    for name, computed in found.items():
        dim = 1 if name == "lse" else 0
        computed, expected, theirs = (x.index_select(dim, rows) for x in (computed, right[name], peer[name]))
        assert error(computed, expected) <= 2 * error(theirs, expected) + 1e-5, name
