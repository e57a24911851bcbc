"""Seconds of a call on the device: events on "cuda", the wall clock on "cpu".

    plan = warm_up(call, "cuda")     # compiles, fills caches, raises clocks; finds how often to repeat
    seconds = sample(plan)           # one sample: the median of the repeats

What a sample is on a GPU: the device first sleeps for a moment, in which the host queues all repeats, so that
the gaps between launches are not timed. Before every repeat a buffer of the size of the L2 is overwritten,
outside the timed window, so that no call finds its inputs there because it ran a moment ago. A call of many
small kernels is timed as a CUDA graph, `warm_up(graphed(call), "cuda")`: beyond some thousand launches the
queue is full, and the host's pace would be timed.

What is timed is then the device's work alone. With queued=False the device does not sleep: where the host is
slower than the device, its launches are what is timed, as whoever runs such a call would find.

Inputs are the caller's matter. Never zeros: a card multiplies them faster than real numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hwsearch.measure.device import CPU, CUDA, check_device, synchronize
from hwsearch.measure.failure import reason

Call = Callable[[], object]

# One sample repeats a call for about this long.
SAMPLE_SECONDS = 0.004
MOST_REPEATS = 40
# A card that idled, as while a kernel is compiled, takes some milliseconds to raise its clock.
WARM_UP_SECONDS = 0.025
# Launches queue up behind a sleeping device for at most this long, at some 2 GHz.
LONGEST_SLEEP_SECONDS, CYCLES_PER_SECOND = 0.03, 2e9
# What the host needs for the events and the flush around a call.
AROUND_SECONDS = 3e-5
# The clock's own grain; an empty call takes no less.
SHORTEST_SECONDS = 1e-9


@dataclass(frozen=True)
class Plan:
    """A warm call and how one sample of it is taken.

    Attributes:
        repeats: calls in one sample.
        host: seconds that the CPU is busy with one call; a loop that is slower on the device hides it.
        queued: the host queues a sample's calls while the device sleeps, so that its pace is not timed.
    """

    call: Call
    device: str
    repeats: int
    host: float
    queued: bool = True


def warm_up(call: Call, device: str, *, queued: bool = True) -> Plan:
    """Run `call` until compilation, caches and clocks are behind it; `queued` as in Plan.

    Raises what `call` raises.
    """
    if device not in (CUDA, CPU):
        raise ValueError(f"device: {device!r}, accepted are {CUDA!r} and {CPU!r}")
    call()
    synchronize(device)
    start = time.perf_counter()  # after compilation, in which the card idles
    busy: list[float] = []
    while not busy or time.perf_counter() - start < WARM_UP_SECONDS:
        busy.append(_wall_clock(call))
        synchronize(device)
    host = statistics.median(busy)
    once = min(sample(Plan(call, device, 1, host, queued)) for _ in range(3)) if device == CUDA else host
    repeats = min(MOST_REPEATS, round(SAMPLE_SECONDS / max(once, SHORTEST_SECONDS)))
    if device == CUDA and queued:  # no more than the host can queue while the device sleeps
        repeats = min(repeats, int(LONGEST_SLEEP_SECONDS / _sleep_seconds(host, 1)))
    return Plan(call, device, max(1, repeats), host, queued)


def sample(plan: Plan) -> float:
    """Seconds of one call on the device: the median of `plan.repeats`, each with a cold L2."""
    seconds = _on_cuda(plan) if plan.device == CUDA else [_wall_clock(plan.call) for _ in range(plan.repeats)]
    return max(statistics.median(seconds), SHORTEST_SECONDS)


def _wall_clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _on_cuda(plan: Plan) -> list[float]:
    import torch

    flush = _l2_buffer(torch.cuda.current_device())
    events = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
        for _ in range(plan.repeats)
    ]
    if plan.queued:
        sleep = min(_sleep_seconds(plan.host, plan.repeats), LONGEST_SLEEP_SECONDS)
        torch.cuda._sleep(int(sleep * CYCLES_PER_SECOND))  # type: ignore[no-untyped-call]
    for begin, end in events:
        flush.zero_()
        begin.record()
        plan.call()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1e3 for begin, end in events]


def _sleep_seconds(host: float, repeats: int) -> float:
    """How long the device has to sleep while the host queues so many calls, with some to spare."""
    return 1.5 * (host + AROUND_SECONDS) * repeats + 1e-4


@cache
def _l2_buffer(index: int) -> Any:
    """As many bytes as this GPU's L2 holds; nvbench clears it with as many."""
    import torch

    size = torch.cuda.get_device_properties(index).L2_cache_size
    return torch.empty(max(size, 1), dtype=torch.uint8, device=f"cuda:{index}")


def forget_l2_buffer() -> None:
    """Free what was overwritten between calls; the next sample makes it anew."""
    _l2_buffer.cache_clear()


def graphed(call: Call) -> Call:
    """Capture `call` as a CUDA graph, after three runs of it, and return the replay.

    `call` must do the same work on the same tensors each time and never wait for the device. Raises what
    CUDA raises for one that cannot be captured.
    """
    import torch

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch._C._cuda_clearCublasWorkspaces()  # the capture takes its own; both would count as needed
    graph = torch.cuda.CUDAGraph()
    failed: Exception | None = None
    try:
        with torch.cuda.graph(graph):
            try:
                out = call()
            except Exception as error:
                failed = error
                raise
    except Exception as error:
        # Ending a capture that has failed raises in its turn, and that says nothing of why.
        raise failed or error from None
    # A graph knows addresses alone: what `call` reads must live as long as the replay.
    kept = call, out

    def replay() -> object:
        graph.replay()
        return kept[1]

    return replay


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


def summary(seconds: Sequence[float], host: float = 0.0) -> Timing:
    """Of samples in the order in which they were taken; a single one is its own first and second half."""
    half = len(seconds) // 2
    first, second = statistics.median(seconds[:half] or seconds), statistics.median(seconds[half:])
    return Timing(statistics.median(seconds), first, second, host)


def interleaved(calls: Mapping[str, Call], device: str, rounds: int = 10) -> dict[str, Timing | str]:
    """Each version once a round, A B C then C B A, so that drift hits all alike; a failure is its reason.

    Raises DeviceLost where a failure took the CUDA context away.
    """
    results: dict[str, Timing | str] = {}
    plans: dict[str, Plan] = {}
    for name, call in calls.items():
        try:
            plans[name] = warm_up(call, device)
        except Exception as error:
            results[name] = reason(error)
            check_device(device)
    samples: dict[str, list[float]] = {name: [] for name in plans}
    for turn in range(rounds):
        names = list(plans)
        for name in reversed(names) if turn % 2 else names:
            samples[name].append(sample(plans[name]))
    return results | {name: summary(seconds, plans[name].host) for name, seconds in samples.items()}
