"""The process that owns the device: checks and times configurations of one kernel, and watches the card."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hwsearch.measure.conditions import Conditions, undisturbed
from hwsearch.measure.device import CUDA
from hwsearch.measure.energy import joules
from hwsearch.measure.nvml import Watch, watch_cuda
from hwsearch.measure.race import FASTER, Comparison, Finalist, Sample, compare, finals
from hwsearch.measure.timing import Plan, sample, warm_up
from hwsearch.tuning.kernel import Config, Kernel


@dataclass(frozen=True)
class Measured:
    """One configuration, timed in turn with the best so far.

    Attributes:
        seconds: the median of its samples.
        ratio: to the best so far; 1 where there was none.
        verdict: "faster" | "slower" | "undecided".
        samples: how many were taken of it.
        check_s: seconds of the check before; where machine code was compiled ahead, no compiling is in it.
        conditions: of the card.
    """

    seconds: float
    ratio: float
    verdict: str
    samples: int
    check_s: float
    conditions: Conditions


class Bench:
    """Lives in a `hwsearch.measure.child`; whatever it raises is that call's failure."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None
        self._races: Races | None = None

    def run(self, kernel: Kernel, method: str, *arguments: Any) -> Any:
        """What that method of the kernel's Races returns; one kernel is held at a time."""
        if self._races is None or kernel != self._kernel:
            self._races = None  # the last kernel's tensors make room
            self._races, self._kernel = Races(kernel), kernel
        return getattr(self._races, method)(*arguments)


class Races:
    """One kernel on the device, opened."""

    def __init__(self, kernel: Kernel) -> None:
        self._device = kernel.device
        self._opened = kernel.open()
        self._watch = watch_cuda() if kernel.device == CUDA else Watch(note="a CPU is not watched")
        self._best: tuple[Config, Plan] | None = None
        self._taint: str | None = None

    def prepare(self, best: Config | None) -> None:
        """Have the best so far ready to be timed against."""
        if best is None:
            self._best = None
        elif self._best is None or self._best[0] != best:
            self._best = best, self._plan(best)

    def trial(self, config: Config, most_pairs: int, risk: float) -> Measured:
        """Check `config` and time it in turn with the best so far, until one is known to be faster."""
        start = time.perf_counter()
        self._opened.check(config)
        check_s = time.perf_counter() - start
        plan = self._plan(config)
        if self._best is None:
            seconds, conditions = undisturbed(
                plan, self._watch, lambda: [sample(plan) for _ in range(most_pairs)]
            )
            return Measured(statistics.median(seconds), 1.0, FASTER, most_pairs, check_s, conditions)
        plans = {"challenger": plan, "best": self._best[1]}
        found, conditions = undisturbed(
            plan,
            self._watch,
            lambda: compare(
                lambda name: sample(plans[name]), "challenger", "best", most_pairs=most_pairs, risk=risk
            ),
        )
        return Measured(found.seconds, found.ratio, found.verdict, found.pairs, check_s, conditions)

    def finals(self, configs: Sequence[Config], by_energy: bool, most: int, risk: float) -> list[Finalist]:
        """Names are places in `configs`; seconds are joules where energy is raced."""
        names = [str(place) for place in range(len(configs))]
        sampled, plan = self._sampled(configs, by_energy)
        race = partial(finals, sampled, names, most_rounds=most, risk=risk)
        found, conditions = undisturbed(plan, self._watch, race)
        self._taint = conditions.taint
        return found

    def duel(self, config: Config, default: Config, by_energy: bool, most: int, risk: float) -> Comparison:
        sampled, plan = self._sampled((config, default), by_energy)
        race = partial(compare, sampled, "0", "1", most_pairs=most, risk=risk)
        found, conditions = undisturbed(plan, self._watch, race)
        self._taint = self._taint or conditions.taint
        return found

    def taint(self) -> str | None:
        """What disturbed the last finals or the duel after them, each time that they were held."""
        return self._taint

    def joules(self, config: Config) -> float:
        """Of one run, over a second and more of runs. Raises ValueError where the card does not tell."""
        found = joules(self._opened.call(config), self._watch)
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
