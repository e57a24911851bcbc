"""Tiles of tuned tables reach the kernels, for the calls that they were tuned for alone, and answers stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tuned_rows import ONE_PASS, row, write

from hwsearch.kernels import tuned, varlen_attention
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.configs import Tile, Tiles, default_tiles
from hwsearch.kernels.tuned import Key

NARROW = Key("fp32", 32, "narrow", 128)
# Small enough for the interpreter: blocks with and without masks, and more than one of each.
FORWARD = {"rows": 16, "columns": 16, "warps": 4, "stages": 1, "split": True, "rotate": "load"}
BACKWARD = {
    "one_pass": False, "rotate": "load",
    "dq_rows": 16, "dq_columns": 32, "dq_warps": 2, "dq_stages": 1, "dq_split": True,
    "dkdv_rows": 32, "dkdv_columns": 16, "dkdv_warps": 4, "dkdv_stages": 2, "dkdv_split": False,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this very CPU's tables lie, empty; what was read is forgotten before and after."""
    monkeypatch.setattr(tuned, "folders", lambda: (tmp_path,))
    tuned.forget()
    yield tmp_path
    tuned.forget()


def table(folder: Path, kernel: str, config: dict[str, Any], *keys: Key) -> None:
    write(folder, "cpu", *(row(kernel, key, config=config) for key in keys), kernel=kernel)
    tuned.forget()


def tiles(window: int | None = 40, max_seqlen: int = 100, causal: bool = False) -> Tiles:
    q = torch.zeros(1, 1, 32)
    schedule = torch.zeros(4, 4, 3, dtype=torch.int32)
    call = launch.Call(schedule, 1, max_seqlen, -1 if window is None else window, causal, 1.0, None, None)
    return launch._tiles(q, call)


def default(window: int | None = 40, max_seqlen: int = 100) -> Tiles:
    return default_tiles((8, 0), 4, 32, window is not None, max_seqlen)


def test_without_a_table_the_defaults_run(folder: Path) -> None:
    assert tiles() == default()


def test_a_row_changes_its_own_kernel_alone(folder: Path) -> None:
    table(folder, "attention_forward", FORWARD, NARROW)
    forward = replace(default(), forward=Tile(16, 16, 4, 1, True), rotate_in_forward=True)
    assert tiles() == forward
    table(folder, "attention_backward", BACKWARD, NARROW)
    dq, dkdv = Tile(16, 32, 2, 1, True), Tile(32, 16, 4, 2, False)
    assert tiles() == replace(forward, dq=dq, dkdv=dkdv, short=None, rotate_in_backward=True)


def test_the_one_pass_backward_of_a_table_runs(folder: Path) -> None:
    table(folder, "attention_backward", ONE_PASS, Key("fp32", 32, "global", 64))
    assert tiles(None, 50).short == Tile(64, 64, 4, 1)
    # and not for the next class, whose sequences it does not hold
    assert tiles(None, 100) == default(None, 100)


@pytest.mark.parametrize(
    ("window", "max_seqlen", "causal"),
    [(40, 100, True), (None, 100, False), (400, 500, False), (99, 100, False), (40, 3000, False)],
)
def test_no_other_call_takes_a_row(folder: Path, window: int | None, max_seqlen: int, causal: bool) -> None:
    table(folder, "attention_forward", FORWARD, NARROW)
    hides = None if window is None or window >= max_seqlen - 1 else window
    assert tiles(window, max_seqlen, causal) == default(hides, max_seqlen)


def test_tiles_that_a_tuner_sets_come_before_its_tables(folder: Path) -> None:
    table(folder, "attention_forward", FORWARD, NARROW)
    chosen = default()
    call = launch.Call(torch.zeros(4, 4, 3, dtype=torch.int32), 1, 100, 40, False, 1.0, None, None, chosen)
    assert launch._tiles(torch.zeros(1, 1, 32), call) is chosen


@pytest.mark.parametrize("window", [None, 40, 99])
@pytest.mark.skipif(torch.cuda.is_available(), reason="the tables of this test are of the CPU")
def test_answers_are_the_same_with_other_tiles(folder: Path, window: int | None) -> None:
    keys = [replace(NARROW, window=kind) for kind in ("narrow", "global")]
    table(folder, "attention_forward", FORWARD, *keys)
    table(folder, "attention_backward", BACKWARD, *keys)
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = torch.randn(4, 147, 1, 32, generator=generator)
    offsets = torch.tensor([0, 100, 100, 147])
    angles = torch.rand(100, 16, generator=generator)
    found = {}
    for backend in ("triton", "sdpa"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = varlen_attention(
            *leaves, offsets, 100, window=window, rope=(angles.cos(), angles.sin()), backend=backend
        )
        found[backend] = [out, *torch.autograd.grad(out, leaves, dout)]
    for ours, theirs in zip(found["triton"], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_window_that_hides_nothing_runs_the_kernels_without_one() -> None:
    call = launch.Call(torch.zeros(0), 1, 100, 98, False, 1.0, None, None)
    assert call.local
    for other in (replace(call, window=99), replace(call, window=-1), replace(call, max_seqlen=99)):
        assert not other.local
