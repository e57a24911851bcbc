"""The process that owns the device: checks and times configurations of one kernel."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    seconds: float
    ratio: float
    verdict: str
    samples: int


class Bench:
    """Lives in a `hwsearch.measure.child`; whatever it raises is that call's failure."""

    def __init__(self, kernel: Kernel) -> None:
        self._device = kernel.device
        self._opened = kernel.open()
        self._best: tuple[Config, Plan] | None = None

    def prepare(self, best: Config | None) -> None:
        """Have the best so far ready to be timed against."""
        if best is None:
            self._best = None
        elif self._best is None or self._best[0] != best:
            self._best = best, warm_up(self._opened.call(best), self._device)

    def trial(self, config: Config, most_pairs: int, risk: float) -> Measured:
        """Check `config` and time it in turn with the best so far, until one is known to be faster."""
        self._opened.check(config)
        plan = warm_up(self._opened.call(config), self._device)
        if self._best is None:
            seconds = [sample(plan) for _ in range(most_pairs)]
            return Measured(statistics.median(seconds), 1.0, FASTER, most_pairs)
        plans = {"challenger": plan, "best": self._best[1]}
        found = compare(
            lambda name: sample(plans[name]), "challenger", "best", most_pairs=most_pairs, risk=risk
        )
        return Measured(found.seconds, found.ratio, found.verdict, found.pairs)

    def finals(self, configs: Sequence[Config], energy: bool, most: int, risk: float) -> list[Finalist]:
        """Names are places in `configs`; seconds are joules where `energy` is raced."""
        sampled = self._sampled(configs, energy)
        return finals(sampled, [str(place) for place in range(len(configs))], most_rounds=most, risk=risk)

    def duel(self, config: Config, default: Config, energy: bool, most: int, risk: float) -> Comparison:
        return compare(self._sampled((config, default), energy), "0", "1", most_pairs=most, risk=risk)

    def joules(self, config: Config) -> float:
        """Of one run, over a second and more of runs."""
        raise NotImplementedError

    def _sampled(self, configs: Sequence[Config], energy: bool) -> Sample:
        if energy:
            return lambda name: self.joules(configs[int(name)])
        plans = [warm_up(self._opened.call(config), self._device) for config in configs]
        return lambda name: sample(plans[int(name)])
