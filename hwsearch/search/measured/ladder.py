"""Which shape to measure next: where the front that is known can be expected to grow most a second.

Predictions, corrected by what was measured so far, give every candidate a believed time and how sure that
is; other objectives are known exactly. Measuring a candidate is worth the hypervolume that it is expected to
add to what the measured shapes, at their believed values, dominate. Knows nothing of Optuna or of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hwsearch.regression.covariance import Features, Floats
from hwsearch.search.measured.hypervolume import Boxes, headroom
from hwsearch.search.measured.residual import FEWEST_FITTED, MOST_LEARNED, Measured, Residuals, Rows
from hwsearch.search.pareto import REFERENCE_POINT, front_rows

LossesOf = Callable[[Floats, Rows], Floats]
"""Losses [M, K], smaller is better, of the candidates at rows [M] if they took so many seconds, [G, M]. A
loss may be inf: such a candidate breaks a limit and adds nothing."""

DRAWS = 16  # possible times of a candidate that its gain is averaged over
SHORTLIST = 1024  # candidates followed between two fits
REFIT = 1.25  # the regression is fitted anew when there are this many times as many measurements
LARGEST_PRODUCT = 20_000_000  # candidates x draws x boxes of one proposal
MOST_FITTED = 250  # measurements, the first ones, that the regression's constants are fitted to
# A gain below this share of what a front can dominate is none.
NO_GAIN = 1e-9
DEVIATIONS = (0.25, 0.5, 1.0, 2.0, 4.0)  # steps in which a time is imagined better than believed


class Ladder:
    """Proposes rows of the candidates; what it proposes follows from the measurements alone.

    Args:
        predicted_s: seconds of each candidate on each GPU that is measured, [G, N].
        features: of the candidates, for the residuals.
        losses_of: see LossesOf.
        cost_s: what measuring a candidate takes, in any unit, [N]; None where all cost the same.
    """

    def __init__(
        self, predicted_s: Floats, features: Features, losses_of: LossesOf, cost_s: Floats | None = None
    ) -> None:
        self._predicted_s = predicted_s
        self._features = features
        self._losses_of = losses_of
        self._cost_s = np.ones(predicted_s.shape[1]) if cost_s is None else cost_s
        self._draws = _draws(len(predicted_s))
        self._known = Residuals.of(predicted_s, features, _nothing(len(predicted_s)))
        self._shortlist: Rows = np.empty(0, dtype=np.int64)
        self._listed_at = -1  # measurements at which the shortlist was made

    def next_row(
        self, measured: Measured, pending: Collection[int] = (), failed: Collection[int] = ()
    ) -> int | None:
        """The row to measure next, not measured, pending or failed; None where none promises a gain."""
        free = np.ones(self._predicted_s.shape[1], dtype=bool)
        free[[*measured.rows.tolist(), *pending, *failed]] = False
        if not free.any():
            return None
        candidates = self._followed(measured, free)
        counted = np.r_[measured.rows, np.array(sorted(pending), dtype=np.int64)]
        gains = self._gains(self.learn(measured), candidates, counted) / self._cost_s[candidates]
        best = int(gains.argmax())
        return int(candidates[best]) if gains[best] > 0 else None

    def learn(self, measured: Measured) -> Residuals:
        """What the measurements say of all predictions."""
        fitted_to = min(_milestone(len(measured)), MOST_FITTED)
        self._known = self._known.learn(measured, fitted_to, self._fronts_before(measured))
        return self._known

    def _fronts_before(self, measured: Measured) -> NDArray[np.int64]:
        """How far from the front each measurement is, by what was measured: what of too many is left out."""
        if len(measured) <= MOST_LEARNED:
            return np.zeros(len(measured), dtype=np.int64)
        predicted_s = self._predicted_s[:, measured.rows]
        seconds = np.where(np.isnan(measured.seconds), predicted_s, measured.seconds)
        return np.asarray(moocore.pareto_rank(self._losses_of(seconds, measured.rows)))

    def front(self, measured: Measured) -> Rows:
        """The measured rows that are believed to be on the front."""
        losses = self._believed(self.learn(measured), measured.rows)
        return measured.rows[front_rows(losses)] if len(losses) else measured.rows

    def _believed(self, residuals: Residuals, rows: Rows) -> Floats:
        """Losses at the times that are believed, [M, K]."""
        return self._losses_of(self._predicted_s[:, rows] * np.exp(residuals.mean(rows)), rows)

    def _followed(self, measured: Measured, free: NDArray[np.bool_]) -> Rows:
        """The shortlist's free rows; it is made anew at every milestone, and when it is used up."""
        if self._listed_at != (milestone := _milestone(len(measured))):
            # From what was known at the milestone, so that a search that starts again lists the same.
            known = measured.first(milestone)
            unmeasured = np.ones(len(free), dtype=bool)
            unmeasured[known.rows] = False
            self._shortlist, self._listed_at = self._promising(known, unmeasured), milestone
        if not free[self._shortlist].any():
            self._shortlist = self._promising(measured, free)
        return self._shortlist[free[self._shortlist]]

    def _promising(self, measured: Measured, among: NDArray[np.bool_]) -> Rows:
        """Those first whose times need be the fewest deviations better than believed to reach the front."""
        rows = np.flatnonzero(among)
        mean, deviation = self.learn(measured).at(rows)
        predicted = self._predicted_s[:, rows]
        believed = self._losses_of(predicted * np.exp(mean), rows)
        scale = Scale.of(believed)
        steps = np.full(len(rows), len(DEVIATIONS))
        within = np.arange(len(rows))
        for step in reversed(range(len(DEVIATIONS))):
            better = predicted[:, within] * np.exp(mean[:, within] - DEVIATIONS[step] * deviation[:, within])
            reached = headroom(scale.unit(self._losses_of(better, rows[within])), scale.front) > 0
            within = within[reached]
            steps[within] = step
        steps[front_rows(believed)] = -1
        # Of equals whichever: in the order of their rows they would all lie on one end of the front.
        order = np.lexsort((np.random.default_rng(0).permutation(len(rows)), steps))
        return rows[order[:SHORTLIST]]

    def _gains(self, residuals: Residuals, candidates: Rows, counted: Rows) -> Floats:
        """Expected growth of what the counted rows dominate, for each candidate, [M]."""
        counted_losses = self._believed(residuals, counted)
        mean, deviation = residuals.at(candidates)
        predicted = self._predicted_s[:, candidates]
        believed = self._losses_of(predicted * np.exp(mean), candidates)
        scale = Scale.of(np.concatenate([counted_losses, believed]))
        boxes = Boxes.beyond(scale.unit(counted_losses), np.full(believed.shape[1], REFERENCE_POINT))
        most = LARGEST_PRODUCT // (len(self._draws) * max(1, len(boxes.lower)))
        gains = np.zeros(len(candidates))
        chosen = slice(0, max(1, most))  # the most promising come first
        for draw in self._draws:
            imagined = np.exp(mean[:, chosen] + deviation[:, chosen] * draw[:, None])
            losses = self._losses_of(predicted[:, chosen] * imagined, candidates[chosen])
            gains[chosen] += boxes.gains(scale.unit(losses)) / len(self._draws)
        return np.where(gains > NO_GAIN, gains, 0.0)


@dataclass(frozen=True, eq=False)
class Scale:
    """Losses counted so that the believed front spans 0..1 in each.

    Attributes:
        front: of the losses it was made from, on this scale.
    """

    ideal: Floats
    span: Floats
    front: Floats

    @classmethod
    def of(cls, losses: Floats) -> Scale:
        finite = losses[np.isfinite(losses).all(axis=1)]
        if not len(finite):
            return cls(np.zeros(losses.shape[1]), np.ones(losses.shape[1]), finite)
        front = finite[front_rows(finite)]
        ideal, span = front.min(axis=0), np.ptp(front, axis=0)
        span = np.where(span > 0, span, 1.0)
        return cls(ideal, span, (front - ideal) / span)

    def unit(self, losses: Floats) -> Floats:
        return np.asarray((losses - self.ideal) / self.span)


def _nothing(gpus: int) -> Measured:
    return Measured(np.empty(0, dtype=np.int64), np.empty((gpus, 0)), np.empty((gpus, 0)))


def _milestone(count: int) -> int:
    """The last count of measurements, up to this one, at which the regression was fitted anew."""
    last = FEWEST_FITTED
    if count < last:
        return 0
    while (following := max(last + 1, int(last * REFIT))) <= count:
        last = following
    return last


def _draws(gpus: int) -> Floats:
    """Standard normal deviates, spread evenly, [DRAWS, gpus].

    The additive recurrence of M. Roberts 2018, The unreasonable effectiveness of quasirandom sequences.
    """
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (gpus + 1))
    steps = ratio ** -np.arange(1.0, gpus + 1)
    return np.asarray(ndtri((0.5 + np.arange(1, DRAWS + 1)[:, None] * steps) % 1.0))
