"""How much of random search's shortfall a tuner makes up, on the clock of the recorded measurements.

The score of the autotuning methodology (Willemsen et al., FGCS 2024), with a Monte-Carlo baseline: the
analytic one is biased. Over equally spaced times t between the two at which random search has closed 1 %
and 95 % of the way from the space's median to its optimum,

    P = mean of (S(t) - F(t)) / (S(t) - optimum)

F is the tuner's best so far and S the mean of random search's. 0 is random search, 1 knowing the optimum
from the start; below 0 is worse than random. Before its first success a search stands at the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import HwsearchError
from hwsearch.tuning.recorded import RecordedSpace

Floats = NDArray[np.float64]

RANDOM_RUNS = 1000
POINTS = 50
FROM, UNTIL = 0.01, 0.95


@dataclass(frozen=True, eq=False)
class Baseline:
    """Random search without repetition on one space.

    Attributes:
        seconds: [POINTS], recorded seconds at which searches are compared; the last is the budget.
        expected: [POINTS], its mean best so far.
    """

    seconds: Floats
    expected: Floats
    median: float
    optimum: float

    @property
    def budget_s(self) -> float:
        return float(self.seconds[-1])

    def score(self, recorded_seconds: Sequence[float], best: Sequence[float | None]) -> float:
        """P of one search, given its best (None before the first success) after each evaluation."""
        found = np.array([self.median] + [self.median if b is None else b for b in best])
        at = np.searchsorted(np.asarray(recorded_seconds), self.seconds, side="right")
        return float(np.mean((self.expected - found[at]) / (self.expected - self.optimum)))


def random_baseline(recorded: RecordedSpace, runs: int = RANDOM_RUNS, seed: int = 0) -> Baseline:
    """Raises HwsearchError for a space where no configuration is faster than the median."""
    median, optimum = float(np.nanmedian(recorded.times)), recorded.optimum
    if not optimum < median:
        raise HwsearchError("the median configuration is as fast as the fastest: nothing to tune")
    generator = np.random.default_rng(seed)
    moments, steps = [], []
    for _ in range(runs):
        order = generator.permutation(len(recorded))
        best = np.fmin.accumulate(recorded.times[order])
        best = np.r_[median, np.where(np.isnan(best), median, best)]
        changes = np.flatnonzero(np.diff(best))
        moments.append(np.cumsum(recorded.seconds[order])[changes])
        steps.append(np.diff(best)[changes])
    # The mean over the runs is a step function: every run's steps in the order in which they happen.
    moment = np.concatenate(moments)
    order = np.argsort(moment, kind="stable")
    moment, mean = moment[order], median + np.cumsum(np.concatenate(steps)[order]) / runs
    first, last = (moment[np.argmax(mean <= median - share * (median - optimum))] for share in (FROM, UNTIL))
    seconds = np.linspace(first, last, POINTS)
    at = np.searchsorted(moment, seconds, side="right") - 1
    return Baseline(seconds, mean[at], median, optimum)
