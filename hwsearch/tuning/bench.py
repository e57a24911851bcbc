"""The process that owns the device: checks and times configurations of one kernel, and watches the card."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hwsearch.measure import energy, nvml
from hwsearch.measure.device import CUDA, synchronize
from hwsearch.measure.nvml import Reading, Watch, watch_cuda
from hwsearch.measure.race import FASTER, Comparison, Finalist, Sample, compare, finals
from hwsearch.measure.timing import Plan, sample, warm_up
from hwsearch.tuning.kernel import Config, Kernel

Answer = TypeVar("Answer")

# What disturbed the card gets so long to go away, and twice as long the second time.
PAUSE_S = 0.5
MOST_TRIES = 3


@dataclass(frozen=True)
class Measured:
    """One configuration, timed in turn with the best so far.

    Attributes:
        seconds: the median of its samples.
        ratio: to the best so far; 1 where there was none.
        verdict: "faster" | "slower" | "undecided".
        samples: how many were taken of it.
        conditions: plain values by name: clocks, temperature, power, throttling, what disturbed the card.
    """

    seconds: float
    ratio: float
    verdict: str
    samples: int
    conditions: dict[str, Any]


class Bench:
    """Lives in a `hwsearch.measure.child`; whatever it raises is that call's failure."""

    def __init__(self, kernel: Kernel) -> None:
        self._device = kernel.device
        self._opened = kernel.open()
        self._watch = watch_cuda() if kernel.device == CUDA else Watch(note="a CPU is not watched")
        self._best: tuple[Config, Plan] | None = None

    def prepare(self, best: Config | None) -> None:
        """Have the best so far ready to be timed against."""
        if best is None:
            self._best = None
        elif self._best is None or self._best[0] != best:
            self._best = best, self._plan(best)

    def trial(self, config: Config, most_pairs: int, risk: float) -> Measured:
        """Check `config` and time it in turn with the best so far, until one is known to be faster."""
        self._opened.check(config)
        plan = self._plan(config)
        if self._best is None:
            seconds, conditions = self._undisturbed(plan, lambda: [sample(plan) for _ in range(most_pairs)])
            return Measured(statistics.median(seconds), 1.0, FASTER, most_pairs, conditions)
        plans = {"challenger": plan, "best": self._best[1]}
        found, conditions = self._undisturbed(
            plan,
            lambda: compare(
                lambda name: sample(plans[name]), "challenger", "best", most_pairs=most_pairs, risk=risk
            ),
        )
        return Measured(found.seconds, found.ratio, found.verdict, found.pairs, conditions)

    def finals(self, configs: Sequence[Config], by_energy: bool, most: int, risk: float) -> list[Finalist]:
        """Names are places in `configs`; seconds are joules where energy is raced."""
        names = [str(place) for place in range(len(configs))]
        sampled, plan = self._sampled(configs, by_energy)
        return self._undisturbed(plan, lambda: finals(sampled, names, most_rounds=most, risk=risk))[0]

    def duel(self, config: Config, default: Config, by_energy: bool, most: int, risk: float) -> Comparison:
        sampled, plan = self._sampled((config, default), by_energy)
        return self._undisturbed(plan, lambda: compare(sampled, "0", "1", most_pairs=most, risk=risk))[0]

    def joules(self, config: Config) -> float:
        """Of one run, over a second and more of runs. Raises ValueError where the card does not tell."""
        found = energy.joules(self._opened.call(config), self._watch)
        if found is None:
            raise ValueError(self._watch.note or "the card has no energy counter")
        return found

    def _plan(self, config: Config) -> Plan:
        return warm_up(self._opened.call(config), self._device)

    def _sampled(self, configs: Sequence[Config], by_energy: bool) -> tuple[Sample, Plan]:
        """What races, and a plan that puts the card under load."""
        plans = [self._plan(config) for config in configs]
        if by_energy:
            return lambda name: self.joules(configs[int(name)]), plans[0]
        return lambda name: sample(plans[int(name)]), plans[0]

    def _undisturbed(self, plan: Plan, race: Callable[[], Answer]) -> tuple[Answer, dict[str, Any]]:
        """The race's answer, run again where something disturbed the card, and the card's state."""
        for turn in range(1, MOST_TRIES + 1):
            before = self._read(plan)
            answer = race()
            after = self._read(plan)
            taint = nvml.taint(before, after)
            if taint is None or turn == MOST_TRIES:
                break
            time.sleep(PAUSE_S * 2 ** (turn - 1))
        return answer, _conditions(before, after, taint, turn)

    def _read(self, plan: Plan) -> Reading:
        """Under load: an idle card lowers its clocks."""
        if self._watch.nvml is not None:
            for _ in range(plan.repeats):
                plan.call()
        reading = self._watch.read()
        synchronize(self._device)
        return reading


def _conditions(before: Reading, after: Reading, taint: str | None, tries: int) -> dict[str, Any]:
    capped = nvml.throttled_seconds(before, after, nvml.POWER_CAP)
    found = {
        "sm_mhz": after.sm_mhz,
        "memory_mhz": after.memory_mhz,
        "celsius": after.celsius,
        "watts": after.watts,
        "power capped seconds": capped,
        "taint": taint,
        "tries": tries if tries > 1 else None,
    }
    return {name: value for name, value in found.items() if value is not None}
