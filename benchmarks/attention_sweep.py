"""Times of our kernels at other tiles than their defaults, from which defaults are set.

Each kernel is varied by itself, the others at their defaults, so that what differs is its own time. Every
tile is first compiled and run on a small batch by worker processes: Triton then finds the machine code in
its cache on disk, and a tile that does not fit, crashes or gives a wrong answer is known before timing.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from attention_batch import Batch, make_batch, truth
from attention_cases import LOCAL_WINDOW, Case
from attention_timing import ROUNDS
from torch import Tensor

from hwsearch.kernels import attention_schedule
from hwsearch.kernels.triton_attention import launch
from hwsearch.kernels.triton_attention.configs import Tile, Tiles, default_tiles
from hwsearch.measure.device import DeviceLost, check_device
from hwsearch.measure.failure import reason
from hwsearch.measure.timing import Timing, interleaved

# bf16 against float64: rounding gives 2e-3 to 6e-3.
LARGEST_ERROR = 1.5e-2
UNKNOWN = "not tried"
# A small batch whose tensors Triton takes for those of the large ones: the same strides and
# offsets that 16 divides, and the same alignment of the work list's rows.
TRIAL_LONGEST = 160

# Fields of Tiles that say where q and k are turned: as a tile is loaded, or in a pass before.
ROTATIONS = tuple(field.name for field in fields(Tiles) if field.name.startswith("rotate_in_"))

_SIDES = ((64, 32), (64, 64), (64, 128), (128, 32), (128, 64), (128, 128))
LOOPS = tuple(
    Tile(rows, columns, warps, stages)
    for rows, columns in _SIDES
    for warps in ((4,) if rows == 64 else (4, 8))
    for stages in (2, 3)
)
SHORTS = tuple(Tile(rows, rows, warps, 1) for rows in (32, 64, 128) for warps in (2, 4, 8))


@dataclass(frozen=True)
class Variant:
    """One tile of one kernel; `kernel` is a field of Tiles, or "rotation" for where q and k are turned."""

    kernel: str
    tiles: Tiles
    rope: bool

    @property
    def label(self) -> str:
        within = [name.removeprefix("rotate_in_") for name in ROTATIONS if getattr(self.tiles, name)]
        rope = f" rope in {' and '.join(within) or 'passes before'}" if self.rope else ""
        if self.kernel == "rotation":
            return rope.strip()
        tile: Tile | None = getattr(self.tiles, self.kernel)
        if tile is None:
            return f"none{rope}"
        return f"{tile.rows}x{tile.columns} w{tile.warps} s{tile.stages}{rope}"

    @property
    def directions(self) -> tuple[str, ...]:
        if self.kernel == "rotation":
            return ("forward", "backward")
        return ("forward",) if self.kernel == "forward" else ("backward",)


@dataclass(frozen=True)
class Sweep:
    """Variants of one kernel on one case."""

    case: Case
    kernel: str
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        return f"sweep {self.kernel} {self.case.name}"


def sweeps() -> Iterator[Sweep]:
    """Head size 64 first; within one: forward, dK and dV, dQ, the one-pass backward, where to rotate."""
    for head_size in (64, 128):
        for window, workloads in ((None, ("2048", "mix-512")), (LOCAL_WINDOW, ("2048", "mix-512"))):
            for kernel in ("forward", "dkdv", "dq", "rotation"):
                for workload in workloads:
                    yield _sweep(Case(workload, 16, head_size, window), kernel)
        for workload in ("tiny", "64"):
            for kernel in ("forward", "short", "rotation"):
                yield _sweep(Case(workload, 16, head_size, None), kernel)


def _sweep(case: Case, kernel: str) -> Sweep:
    default = tiles_of(case)
    if kernel == "rotation":
        chosen = [default, _rotating(default, True), _rotating(default, False)]
        return Sweep(case, kernel, tuple(Variant(kernel, tiles, True) for tiles in dict.fromkeys(chosen)))
    if kernel == "short":
        tiles = [t for t in SHORTS if t.rows >= case.longest]
        chosen = [replace(default, short=tile) for tile in (default.short, *tiles, None)]
    else:
        # The one-pass backward would run in their place.
        plain = default if kernel == "forward" else replace(default, short=None)
        chosen = [replace(plain, **{kernel: tile}) for tile in (getattr(default, kernel), *LOOPS)]
    # Without rope the kernels are those that find q and k rotated; with it, those that rotate as they load.
    variants = [Variant(kernel, tiles, False) for tiles in dict.fromkeys(chosen)]
    if any(getattr(default, name) for name in ROTATIONS) and kernel != "short":
        variants += [Variant(kernel, _rotating(v.tiles, True), True) for v in variants]
    return Sweep(case, kernel, tuple(variants))


def _rotating(tiles: Tiles, in_load: bool) -> Tiles:
    return replace(tiles, **dict.fromkeys(ROTATIONS, in_load))


def tiles_of(case: Case) -> Tiles:
    """The defaults on the device at hand."""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (8, 0)
    hides = case.window is not None and case.window < case.longest - 1
    return default_tiles(capability, 2, case.head_size, hides, case.longest)


@dataclass(frozen=True)
class Trial:
    """What a worker compiles and runs, for calls whose `max_seqlen` is `longest`."""

    head_size: int
    window: int | None
    longest: int
    variant: Variant


def trial_of(case: Case, variant: Variant) -> Trial:
    return Trial(case.head_size, case.window, case.longest, variant)


class _TrialCase(Case):
    """Named after the longest sequence of the case that it stands for."""

    @property
    def lengths(self) -> tuple[int, ...]:
        longest = min(int(self.workload), TRIAL_LONGEST)
        return longest, longest - 1, 1, 0


# Set in a worker whose CUDA context is gone: what comes after is nobody's fault.
_lost = ""


def run_trial(trial: Trial, device: str) -> str:
    """Empty where the variant is right on a small batch, else what is wrong; never raises."""
    global _lost
    if _lost:
        return f"{UNKNOWN}: {_lost}"
    try:
        batch = make_batch(_TrialCase(str(trial.longest), 1, trial.head_size, trial.window), device)
        true = truth(batch, trial.variant.rope)
        for direction in trial.variant.directions:
            call, outputs = bound(batch, trial.variant, direction, trial.longest)
            call()
            error = true.error(outputs())
            if not error <= LARGEST_ERROR:
                return f"{direction}: relative error {error:.2g} on a small batch"
        return ""
    except Exception as error:
        try:
            check_device(device)
        except DeviceLost as lost:
            _lost = str(lost)
        return reason(error)


def bound(
    batch: Batch, variant: Variant, direction: str, longest: int
) -> tuple[Callable[[], object], Callable[[], dict[str, Tensor]]]:
    """(a call of the kernels; what it has written, by name). What is compiled may depend on `longest`."""
    case, rope = batch.case, variant.rope
    call = launch.Call(
        attention_schedule(batch.cu_seqlens, batch.q.shape[0], batch.case.longest),
        len(case.lengths),
        longest,
        -1 if case.window is None else case.window,
        False,
        case.head_size**-0.5,
        batch.cos if rope else None,
        batch.sin if rope else None,
        variant.tiles,
    )
    qkv = (batch.q, batch.k, batch.v)
    if direction == "forward":
        kept: dict[str, Tensor] = {}

        def forward() -> None:
            kept["out"] = launch.forward(*qkv, call)[0]

        return forward, lambda: kept
    out, lse = launch.forward(*qkv, replace(call, tiles=None))
    gradients = {
        name: torch.full_like(x, float("nan")) for name, x in zip(("dq", "dk", "dv"), qkv, strict=True)
    }

    def backward() -> None:
        launch.backward(batch.dout, None, *qkv, out, lse, call, *gradients.values())

    return backward, lambda: gradients


def run_sweep(sweep: Sweep, device: str, refused: dict[Trial, str]) -> list[dict[str, Any]]:
    """A row a variant and direction: seconds, or the reason that there are none."""
    batch = make_batch(sweep.case, device)
    rows = []
    for direction in sweep.variants[0].directions:
        calls: dict[str, Callable[[], object]] = {}
        for variant in sweep.variants:
            if not refused.get(trial_of(sweep.case, variant)):
                try:
                    calls[variant.label] = bound(batch, variant, direction, sweep.case.longest)[0]
                except Exception as error:
                    refused[trial_of(sweep.case, variant)] = reason(error)
                    check_device(device)
        found = interleaved(calls, device, min(6, ROUNDS[device]))
        for variant in sweep.variants:
            timing = found.get(variant.label, refused.get(trial_of(sweep.case, variant), ""))
            rows.append(_row(sweep, variant, direction, timing))
    return rows


def _row(sweep: Sweep, variant: Variant, direction: str, timing: Timing | str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "workload": sweep.case.workload,
        "heads": sweep.case.heads,
        "head_size": sweep.case.head_size,
        "window": sweep.case.window,
        "kernel": sweep.kernel,
        "pass": direction,
        "variant": variant.label,
        "default": variant.tiles == tiles_of(sweep.case),
        "tiles": asdict(variant.tiles),
        "rope": variant.rope,
    }
    if isinstance(timing, str):
        return row | {"reason": timing}
    tflops = sweep.case.useful_flops(direction) / timing.seconds / 1e12
    return row | {"seconds": timing.seconds, "spread": timing.spread, "tflops": tflops}


def try_all(trials: list[Trial], device: str, seconds: float, workers: int) -> dict[Trial, str]:
    """What is wrong with each trial, empty for nothing, beginning with UNKNOWN where nobody could say."""
    # No job is left, as after --resume: a pool of no workers is refused.
    if workers <= 1 or not trials:
        return {trial: run_trial(trial, device) for trial in trials}
    stop = time.monotonic() + seconds
    found = _in_pool(trials, device, stop, workers)
    again = [trial for trial, wrong in found.items() if wrong.startswith(UNKNOWN)]
    if again and time.monotonic() < stop:
        found |= _in_pool(again, device, stop, workers)
    return found


def _in_pool(trials: list[Trial], device: str, stop: float, workers: int) -> dict[Trial, str]:
    pool = ProcessPoolExecutor(min(workers, len(trials)), multiprocessing.get_context("spawn"))
    futures = {trial: pool.submit(run_trial, trial, device) for trial in trials}
    found = {trial: _answer(future, stop) for trial, future in futures.items()}
    processes = list(getattr(pool, "_processes", {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        # One that hangs in the compiler must not keep the device busy.
        process.join(max(0.0, min(5.0, stop + 5.0 - time.monotonic())))
        if process.is_alive():
            process.terminate()
    return found


def _answer(future: Future[str], stop: float) -> str:
    try:
        return future.result(max(0.0, stop - time.monotonic()))
    except TimeoutError:
        return f"{UNKNOWN}: not compiled in time"
    except Exception as error:  # a worker died, as after a crash of the compiler
        return f"{UNKNOWN}: {reason(error)}"


def workers() -> int:
    return max(1, min(14, (os.cpu_count() or 1) - 2))
