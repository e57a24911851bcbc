"""The optimizer: which configuration to measure next, given all that have been measured.

A Gaussian process over the logarithm of the time, asked at every feasible configuration for its expected
improvement over the best so far. It knows nothing of Optuna and of where its measurements come from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.regression.covariance import Covariance, Features, Floats, fitted
from hwsearch.tuning.features import features_of
from hwsearch.tuning.surrogate import Rows, Surrogate
from hwsearch.tuning.tuning_space import TuningSpace


@dataclass(frozen=True)
class Settings:
    """What was chosen by leaving kernels out; benchmarks/tuning.py compares.

    Attributes:
        initial: configurations far apart that are measured before anything is modelled.
        clip: times count up to the median, and beyond it by this share of the way from the best to the
            median (in logarithms): how bad a bad configuration is, and a failed one, says nothing about
            the best. None: no limit.
        refit: the constants are fitted anew whenever there are this many times as many measurements.
        modelled: measurements the surrogate starts from at most: the better half, the rest spread evenly.
        fitted: measurements the constants are fitted to at most.
        shortlist: candidates followed between two starts of the surrogate.
        near: every so many proposals one is a neighbour of the best: it differs in a single parameter.
        divisor_log_scale: expected log length scale of the powers of two that divide; None: no such features.
        candidates: above so many, a random part of the space is looked at, and all close to the best.
    """

    initial: int = 4
    clip: float | None = 1.0
    refit: float = 1.25
    modelled: int = 250
    fitted: int = 150
    shortlist: int = 4096
    near: int = 4
    divisor_log_scale: float | None = 3.0
    candidates: int = 50_000


POOL = 2000  # candidates for the initial design
DRAWN = 50  # of which so many compete for each of its places
CLOSE = 2  # parameters in which a neighbour of a good configuration may differ
GOOD = 10


class Optimizer:
    """Proposes rows of `space`; what it proposes follows from the seed and the measurements told so far.

    So a search that was cut off goes on as if it had not been, once the same measurements are told again
    in the same order.
    """

    def __init__(self, space: TuningSpace, seed: int, settings: Settings) -> None:
        self._space = space
        self._settings = settings
        self._seed = seed
        self._rows: list[int] = []
        self._logs: list[float] = []  # of times; not a number where the configuration failed
        self._seen = np.zeros(len(space), dtype=bool)
        self._features = features_of(space, settings.divisor_log_scale)
        self._initial = _far_apart(self._features, settings.initial, np.random.default_rng(seed))
        self._covariance = Covariance.prior(self._features)
        self._next_start = settings.initial
        self._modelled: list[int] = []  # measurements that the surrogate knows, in its order
        self._surrogate: Surrogate | None = None

    def tell(self, row: int, time: float | None) -> None:
        """A measurement: a positive time in any one unit, or None where the configuration failed."""
        if time is not None and not 0 < time < np.inf:
            raise HwsearchError(f"time: found {time}; accepted: a positive number, None for a failure")
        self._rows.append(row)
        self._logs.append(np.nan if time is None else float(np.log(time)))
        self._seen[row] = True
        if len(self._rows) == self._next_start:
            self._start()
        elif self._surrogate is not None:
            self._surrogate.observe(row)
            self._modelled.append(len(self._rows) - 1)

    def propose(self, pending: Collection[int] = ()) -> int | None:
        """The row to measure next, none that was told or is `pending`; None when all are."""
        taken = self._seen.copy()
        taken[list(pending)] = True
        if taken.all():
            return None
        for row in self._initial[: max(0, self._settings.initial - len(self._rows))]:
            if not taken[row]:
                return row
        if self._surrogate is None:
            return self._random(taken)
        improvement = self._surrogate.improvement(
            self._targets()[self._modelled], np.array(sorted(pending), dtype=np.int64)
        )
        shortlist = self._surrogate.shortlist
        improvement[taken[shortlist]] = -np.inf
        if len(self._rows) % self._settings.near == 0:
            codes = self._space.codes
            near = (codes[shortlist] != codes[self._best_row()]).sum(axis=1) == 1
            if np.isfinite(improvement[near]).any():
                improvement[~near] = -np.inf
        best = int(improvement.argmax())
        if not np.isfinite(improvement[best]):
            return self._random(taken)
        return int(shortlist[best])

    def _best_row(self) -> int:
        return self._rows[int(np.argmin(np.nan_to_num(self._logs, nan=np.inf)))]

    def _random(self, taken: np.ndarray) -> int:
        generator = np.random.default_rng((self._seed, len(self._rows)))
        return int(generator.choice(np.flatnonzero(~taken)))

    def _targets(self) -> Floats:
        """[n] standardised logarithms of the times, failures among the slowest."""
        logs = np.array(self._logs)
        succeeded = ~np.isnan(logs)
        if not succeeded.any():
            return np.zeros(len(logs))
        best, median, worst = np.quantile(logs[succeeded], (0.0, 0.5, 1.0))
        if self._settings.clip is not None:
            worst = median + self._settings.clip * (median - best)
        clipped = np.minimum(np.where(succeeded, logs, worst), worst)
        spread = clipped.std()
        return np.asarray((clipped - clipped.mean()) / (spread if spread > 1e-12 else 1.0))

    def _start(self) -> None:
        """Fit the constants, choose what is modelled and which candidates are followed."""
        settings, count = self._settings, len(self._rows)
        generator = np.random.default_rng((self._seed, count))
        targets, rows = self._targets(), np.array(self._rows)
        modelled = _better_and_spread(targets, settings.modelled)
        chosen = _better_and_spread(targets, settings.fitted)
        self._covariance = fitted(self._covariance, rows[chosen], targets[chosen])
        last = max(count + 1, min(int(count * settings.refit), count + settings.modelled // 2))
        self._next_start = last
        self._modelled = modelled.tolist()
        self._surrogate = Surrogate(
            self._covariance,
            rows[modelled],
            targets[modelled],
            self._candidates(generator),
            settings.shortlist,
            room=last - count + PENDING_ROOM,
        )

    def _candidates(self, generator: np.random.Generator) -> Rows:
        free = np.flatnonzero(~self._seen)
        if len(free) <= self._settings.candidates:
            return free
        drawn = np.zeros(len(self._space), dtype=bool)
        drawn[generator.choice(free, self._settings.candidates, replace=False)] = True
        codes = self._space.codes
        for measurement in np.argsort(self._targets(), kind="stable")[:GOOD]:
            drawn |= (codes != codes[self._rows[measurement]]).sum(axis=1) <= CLOSE
        return np.flatnonzero(drawn & ~self._seen)


PENDING_ROOM = 64  # measurements under way that the surrogate can take into account


def _better_and_spread(targets: Floats, limit: int) -> Rows:
    """Up to `limit` measurements: the better half of them, and every so many of the rest."""
    if len(targets) <= limit:
        return np.arange(len(targets))
    order = np.argsort(targets, kind="stable")
    better = limit // 2
    rest = np.sort(order[better:])
    spread = rest[np.linspace(0, len(rest) - 1, limit - better).astype(int)]
    return np.sort(np.r_[order[:better], spread])


def _far_apart(space: Features, count: int, generator: np.random.Generator) -> Sequence[int]:
    """Each the farthest from those before it, of a random few: spread out, yet not only corners."""
    pool = generator.permutation(len(space.values))[:POOL]
    features = space.values[pool]
    chosen = [0]
    nearest = ((features - features[0]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(pool)):
        drawn = generator.choice(len(pool), min(DRAWN, len(pool)), replace=False)
        chosen.append(int(drawn[nearest[drawn].argmax()]))
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
    return [int(pool[place]) for place in chosen]
