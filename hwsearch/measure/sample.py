"""One measurement: warm-up, samples until they agree, what the card was like meanwhile.

found = measure(call, "cuda", watch_cuda())
found.seconds, found.conditions.taint, found.row()
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwsearch.measure.conditions import Conditions, undisturbed
from hwsearch.measure.energy import joules
from hwsearch.measure.nvml import Watch
from hwsearch.measure.race import interval
from hwsearch.measure.timing import Call, Plan, sample, summary, warm_up

FEWEST_SAMPLES, MOST_SAMPLES = 5, 60
# A call that takes seconds is not repeated for minutes, but three samples it gets.
LONGEST_SECONDS, FEWEST_LONG_SAMPLES = 10.0, 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measurement:
    """Of one call on one device.

    Attributes:
        seconds, p20, p80: median and quantiles of the samples.
        n: samples, each of them the median of some repeats.
        error: half of the 95 % interval of the mean, relative.
        spread: |second half / first half - 1|, medians: what timing it twice made of it.
        host: seconds that the CPU is busy with one call.
        joules: energy of one call, of the whole card; None where not asked for or not told by the card.
        conditions: clocks, temperature, throttling, taint.
    """

    seconds: float
    p20: float
    p80: float
    n: int
    error: float
    spread: float
    host: float
    joules: float | None
    conditions: Conditions

    def row(self) -> dict[str, Any]:
        """Plain values by name, as JSON writes them, those of the conditions among them."""
        figures = asdict(self)
        conditions: dict[str, Any] = figures.pop("conditions")
        return figures | conditions


def measure(
    call: Call,
    device: str,
    watch: Watch,
    *,
    precision: float = 0.005,
    energy: bool = False,
    queued: bool = True,
) -> Measurement:
    """Time `call` until the 95 % interval of its mean is within +-`precision` of it, or 60 samples are taken.

    Where something disturbed the card the samples are taken again, three times at most, and the last ones
    marked. `energy` adds a second of repeats; `queued` is as in timing.Plan. Raises what `call` raises.
    """
    plan = warm_up(call, device, queued=queued)
    seconds, conditions = undisturbed(plan, watch, lambda: _samples(plan, precision))
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    halves = summary(seconds)
    return Measurement(
        seconds=halves.seconds,
        p20=fifths[0],
        p80=fifths[3],
        n=len(seconds),
        error=_error(seconds),
        spread=halves.spread,
        host=plan.host,
        joules=joules(call, watch) if energy else None,
        conditions=conditions,
    )


def _samples(plan: Plan, precision: float) -> list[float]:
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < MOST_SAMPLES:
        seconds.append(sample(plan))
        sure = len(seconds) >= FEWEST_SAMPLES and _error(seconds) <= precision
        late = len(seconds) >= FEWEST_LONG_SAMPLES and time.perf_counter() - start > LONGEST_SECONDS
        if sure or late:
            break
    return seconds


def _error(seconds: Sequence[float]) -> float:
    low, _, high = interval([math.log(value) for value in seconds], 1 - CONFIDENCE)
    return math.expm1((high - low) / 2)
