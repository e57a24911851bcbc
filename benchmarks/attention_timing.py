"""Seconds of several versions in turn, and what the card itself reaches."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]

# One sample repeats a version for about this long.
SAMPLE_SECONDS = 0.004
MOST_REPEATS = 40
# Launches queue up behind a sleeping device for at most this long, at some 2 GHz.
LONGEST_SLEEP_SECONDS, CYCLES_PER_SECOND = 0.03, 2e9


@dataclass(frozen=True)
class Timing:
    """Medians in seconds of one call: all samples, the first half of them, the second half.

    `host` is how long the CPU is busy with one call; a training loop that is slower than this on the device
    hides it.
    """

    seconds: float
    first: float
    second: float
    host: float

    @property
    def spread(self) -> float:
        """What timing the same version twice made of it: |second / first - 1|."""
        return abs(self.second / self.first - 1)


def interleaved(calls: Mapping[str, Call], device: str, rounds: int = 10) -> dict[str, Timing | str]:
    """Each version once a round, A B C then C B A, so that drift hits all alike; a failure is its reason."""
    results: dict[str, Timing | str] = {}
    plans: dict[str, tuple[int, float]] = {}
    # The interpreter is slow, and what it takes is no result.
    rounds = rounds if device == "cuda" else 2
    for name, call in calls.items():
        try:
            plans[name] = _plan(call, device)
        except Exception as error:
            results[name] = reason(error)
            check_device(device)
    samples: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(rounds):
        names = list(plans)
        for name in reversed(names) if turn % 2 else names:
            samples[name].append(_sample(calls[name], device, *plans[name]))
    for name, seconds in samples.items():
        half = rounds // 2
        first, second = statistics.median(seconds[:half]), statistics.median(seconds[half:])
        results[name] = Timing(statistics.median(seconds), first, second, plans[name][1])
    return results


def _plan(call: Call, device: str) -> tuple[int, float]:
    """(repeats a sample, host seconds a call), after warming up: compilation, caches, clocks."""
    if device == "cuda":
        call()
        synchronize(device)
    start = time.perf_counter()
    call()
    host = time.perf_counter() - start
    if device != "cuda":
        return 1, host
    synchronize(device)
    once = _sample(call, device, 1, host)
    return max(1, min(MOST_REPEATS, round(SAMPLE_SECONDS / max(once, 1e-9)))), host


def _sample(call: Call, device: str, repeats: int, host: float) -> float:
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    # While the device sleeps, the host issues all launches: the gaps between them are not timed.
    sleep = min(1.5 * host * repeats + 1e-4, LONGEST_SLEEP_SECONDS)
    torch.cuda._sleep(int(sleep * CYCLES_PER_SECOND))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class DeviceLost(Exception):
    """The CUDA context is gone, as after an illegal access; only a new process can go on."""


def check_device(device: str) -> None:
    """Free what is left over; raises DeviceLost where nothing else can run in this process."""
    gc.collect()
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:
            raise DeviceLost(reason(error)) from None


def reason(error: BaseException) -> str:
    """One line: the kind of failure and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"


def ceilings(device: str, smoke: bool) -> dict[str, float]:
    """FLOP/s of a square bf16 product of random numbers; bytes/s of a copy, read and written."""
    side, count = (256, 1 << 16) if smoke else (8192, 1 << 31)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(count // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    found = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, device)
    work = {"product": 2.0 * side**3, "copy": 2.0 * source.nbytes}
    names = {"product": "matmul_flops_per_s", "copy": "copy_bytes_per_s"}
    return {names[n]: work[n] / t.seconds for n, t in found.items() if isinstance(t, Timing)}
