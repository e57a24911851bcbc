"""Work on the device under a watch: done again where something disturbed the card; what the card was like."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hwsearch.measure import nvml
from hwsearch.measure.device import synchronize
from hwsearch.measure.nvml import Reading, Watch
from hwsearch.measure.timing import Plan

Answer = TypeVar("Answer")

MOST_TRIES = 3
# What disturbed the card gets so long to go away, and twice as long the second time.
PAUSE_SECONDS = 0.5
# Who had the cores for so long has them the next time as well: work on a CPU is not done again then.
LONGEST_CPU_SECONDS = 5.0


@dataclass(frozen=True)
class Conditions:
    """What the card was like; None for what it does not tell.

    Attributes:
        sm_mhz, memory_mhz, celsius, watts: at the end, under load.
        limit_watts: the power limit that was enforced.
        capped: share of the time in which the power limit held the clock back.
        taint: what disturbed the last try, and so all of them, for people to read; None for a clean one.
        tries: how often the work was done.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    celsius: int | None
    watts: float | None
    limit_watts: float | None
    capped: float | None
    taint: str | None
    tries: int


def undisturbed(plan: Plan, watch: Watch, work: Callable[[], Answer]) -> tuple[Answer, Conditions]:
    """The answer of `work`, done until nothing taints it, three times at most; the last conditions.

    What taints it is said in hwsearch.measure.nvml; work of some seconds on a CPU is done once all the same.
    `plan` puts the card under load while its clocks are read. Raises what `work` raises.
    """
    tries = 0
    while True:
        before = _read_under_load(plan, watch)
        answer = work()
        after = _read_under_load(plan, watch)
        tries += 1
        taint = nvml.taint(before, after)
        in_vain = watch.cores and after.at - before.at > LONGEST_CPU_SECONDS
        if taint is None or tries == MOST_TRIES or in_vain:
            return answer, _conditions(before, after, taint, tries)
        if not watch.cores:  # nothing cools down there
            time.sleep(PAUSE_SECONDS * 2 ** (tries - 1))


def _read_under_load(plan: Plan, watch: Watch) -> Reading:
    """Before its calls are done: an idle card lowers its clocks."""
    if watch.nvml is None:
        return watch.read()
    for _ in range(plan.repeats):
        plan.call()
    reading = watch.read()
    synchronize(plan.device)
    return reading


def _conditions(before: Reading, after: Reading, taint: str | None, tries: int) -> Conditions:
    capped = nvml.throttled_seconds(before, after, nvml.POWER_CAP)
    return Conditions(
        sm_mhz=after.sm_mhz,
        memory_mhz=after.memory_mhz,
        celsius=after.celsius,
        watts=after.watts,
        limit_watts=after.limit_watts,
        capped=None if capped is None else min(1.0, capped / max(after.at - before.at, 1e-9)),
        taint=taint,
        tries=tries,
    )
