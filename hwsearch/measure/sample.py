"""One measurement: warm-up, samples until they agree, the card's state before and after.

found = measure(call, "cuda", watch_cuda())
found.seconds, found.taint, found.row()
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwsearch.measure import nvml
from hwsearch.measure.device import synchronize
from hwsearch.measure.energy import joules
from hwsearch.measure.nvml import Reading, Watch
from hwsearch.measure.race import interval
from hwsearch.measure.timing import Call, Plan, sample, summary, warm_up

FEWEST_SAMPLES, MOST_SAMPLES = 5, 60
# A call that takes seconds is not repeated for minutes; three samples it gets.
LONGEST_SECONDS = 10.0
CONFIDENCE = 0.95
MOST_TRIES = 3
# What heated or disturbed the card gets so long to go away, and twice as long the second time.
PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Measurement:
    """Of one call on one device; None for what the device does not tell.

    Attributes:
        seconds, p20, p80: median and quantiles of the samples.
        n: samples, each of them the median of some repeats.
        error: half of the 95 % interval of the mean, relative.
        spread: |second half / first half - 1|, medians: what timing it twice made of it.
        host: seconds that the CPU is busy with one call.
        sm_mhz, memory_mhz, celsius, watts: at the end, under load.
        capped: share of the time in which the power limit held the clock back.
        taint: what disturbed every one of the tries, for people to read; None for a clean one.
        tries: how often the samples were taken.
        joules: energy of one call, of the whole card.
    """

    seconds: float
    p20: float
    p80: float
    n: int
    error: float
    spread: float
    host: float
    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    capped: float | None
    taint: str | None
    tries: int
    joules: float | None

    def row(self) -> dict[str, Any]:
        """Plain values by name, as JSON writes them."""
        return asdict(self)


def measure(
    call: Call,
    device: str,
    watch: Watch,
    *,
    precision: float = 0.005,
    energy: bool = False,
) -> Measurement:
    """Time `call` until the 95 % interval of its mean is within +-`precision` of it, or 60 samples are taken.

    A tainted measurement (hwsearch.measure.nvml says what that is) is taken again after a pause, three times
    in all; the last one is marked. `energy` adds a second of repeats. Raises what `call` raises.
    """
    plan = warm_up(call, device)
    for turn in range(1, MOST_TRIES + 1):
        before = _read_under_load(plan, watch)
        seconds = _samples(plan, precision)
        after = _read_under_load(plan, watch)
        taint = nvml.taint(before, after)
        if taint is None or turn == MOST_TRIES:
            break
        time.sleep(PAUSE_SECONDS * 2 ** (turn - 1))
        warm_up(call, device)
    joule = joules(call, watch) if energy else None
    return _measurement(plan, seconds, before, after, taint, turn, joule)


def _samples(plan: Plan, precision: float) -> list[float]:
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < MOST_SAMPLES:
        seconds.append(sample(plan))
        enough = len(seconds) >= FEWEST_SAMPLES and _error(seconds) <= precision
        late = len(seconds) >= 3 and time.perf_counter() - start > LONGEST_SECONDS
        if enough or late:
            break
    return seconds


def _error(seconds: Sequence[float]) -> float:
    low, _, high = interval([math.log(value) for value in seconds], 1 - CONFIDENCE)
    return math.expm1((high - low) / 2)


def _read_under_load(plan: Plan, watch: Watch) -> Reading:
    """A reading while the device has a sample's work before it: idle, a card lowers its clocks."""
    if watch.nvml is None:
        return watch.read()
    for _ in range(plan.repeats):
        plan.call()
    reading = watch.read()
    synchronize(plan.device)
    return reading


def _measurement(
    plan: Plan,
    seconds: list[float],
    before: Reading,
    after: Reading,
    taint: str | None,
    tries: int,
    joule: float | None,
) -> Measurement:
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    timing = summary(seconds)
    capped = nvml.throttled_seconds(before, after, nvml.POWER_CAP)
    return Measurement(
        seconds=timing.seconds,
        p20=fifths[0],
        p80=fifths[3],
        n=len(seconds),
        error=_error(seconds),
        spread=timing.spread,
        host=plan.host,
        sm_mhz=after.sm_mhz,
        memory_mhz=after.memory_mhz,
        celsius=after.celsius,
        watts=after.watts,
        capped=None if capped is None else min(1.0, capped / max(after.at - before.at, 1e-9)),
        taint=taint,
        tries=tries,
        joules=joule,
    )
