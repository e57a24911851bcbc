"""What measurements say of a prediction's error: measured / predicted as a function of the shape.

For each GPU a Gaussian process over ln(measured / predicted). Three parts are told apart: an offset that all
shapes share, a smooth function of the shape's features, and what is each shape's own (how its matrices happen
to fill the GPU), besides the noise of the measurement. So a measured shape is believed to be near its
measurement, as near as that was sharp, and its neighbours are believed to err as it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular

from hwsearch.regression.covariance import Array, Covariance, Features, Floats, fitted
from hwsearch.shape.table import ShapeTable

Rows = NDArray[np.int64]

# Predictions err by about so much once their common offset is known; the unit of the regression.
SPREAD = 0.1
# What is a shape's own, as the logarithm of a variance in these units: some 1 %; mean and deviation.
LOG_OWN_PRIOR = (2 * np.log(0.01 / SPREAD), 1.5)
FEWEST_FITTED = 5  # measurements from which the constants are fitted rather than expected
MOST_LEARNED = 500  # measurements of a GPU that are learned from: the cost grows with their cube
ROWS_AT_ONCE = 512  # so that what is computed of them stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Measured:
    """What has been measured so far, in the order in which it came.

    Attributes:
        rows: of the candidates, none twice, [n].
        seconds: on each GPU, nan where it was not measured, [G, n].
        error: standard error of each, relative, [G, n].
    """

    rows: Rows
    seconds: Floats
    error: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Measured:
        return Measured(self.rows[:count], self.seconds[:, :count], self.error[:, :count])


@dataclass(frozen=True, eq=False)
class Residual:
    """Of one GPU, in units of SPREAD.

    Attributes:
        covariance: of the smooth part; its noise is what is each shape's own.
        observed: rows of the shapes that it learned from, [n].
        offset: what all shapes share.
        lower: Cholesky factor of the targets' covariance, [n, n].
        weights: that covariance's inverse times what the offset leaves of the targets, [n].
        own: what measured shapes are believed to be, nan for others, [N].
    """

    covariance: Covariance
    observed: Rows
    offset: float
    lower: Floats
    weights: Floats
    own: Floats

    @classmethod
    def of(
        cls, covariance: Covariance, rows: Rows, targets: Floats, noise: Floats, learned: NDArray[np.bool_]
    ) -> Residual:
        """From measured rows [m], their ln(measured / predicted) with its variance, and which to learn from.

        Of the others what is their own is told from their own measurement, as if the rest were known exactly.
        """
        observed = rows[learned]
        points = covariance.features.values[observed].astype(float)
        variances = np.diag(covariance.noise + noise[learned])
        lower = cholesky(covariance.between(points, points) + variances, lower=True, check_finite=False)
        shares = cho_solve((lower, True), np.ones(len(observed)), check_finite=False)
        offset = float(shares @ targets[learned] / shares.sum()) if len(observed) else 0.0
        weights = cho_solve((lower, True), targets[learned] - offset, check_finite=False)
        own = np.full(len(covariance.features.values), np.nan)
        own[observed] = targets[learned] - noise[learned] * weights
        found = cls(covariance, observed, offset, lower, weights, own)
        if len(others := rows[~learned]):
            expected = found._expected(others)
            share = covariance.noise / (covariance.noise + noise[~learned])
            own[others] = expected + share * (targets[~learned] - expected)
        return found

    def mean(self, rows: Rows) -> Floats:
        """Of ln(true / predicted) at rows of the features, measured or not, [M]."""
        found = self.own[rows]
        others = np.isnan(found)
        found[others] = self._expected(rows[others])
        return SPREAD * found

    def _expected(self, rows: Rows) -> Floats:
        """The mean at rows whose own measurements it did not learn from, [M], in units of SPREAD."""
        mean = np.full(len(rows), self.offset)
        weights = self.weights.astype(np.float32)
        for part, between in self._between(rows):
            mean[part] += weights @ between
        return mean

    def at(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and deviation of ln(true / predicted) at rows that were not measured, [M] each."""
        mean, variance = np.full(len(rows), self.offset), np.full(len(rows), self.covariance.variance)
        weights, lower = self.weights.astype(np.float32), self.lower.astype(np.float32)
        for part, between in self._between(rows):
            mean[part] += weights @ between
            solved = solve_triangular(lower, between, lower=True, overwrite_b=True, check_finite=False)
            variance[part] -= np.einsum("ij,ij->j", solved, solved)
        variance = np.maximum(variance, 0.0) + self.covariance.noise
        return SPREAD * mean, SPREAD * np.sqrt(variance)

    def _between(self, rows: Rows) -> Iterator[tuple[slice, Array]]:
        """Covariances of what was learned from with a part of the rows, [n, part], part by part."""
        features = self.covariance.features.values
        known = features[self.observed]
        for start in range(0, len(rows) if len(known) else 0, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            yield part, self.covariance.between(known, features[rows[part]])


@dataclass(frozen=True, eq=False)
class Residuals:
    """Of all GPUs that are measured; each learns from its own measurements alone.

    Attributes:
        predicted_s: [G, N].
        features: of the N candidates.
        fitted_to: measurements, the first ones, that the constants of the regression are fitted to.
        covariances, parts: one a GPU.
    """

    predicted_s: Floats
    features: Features
    fitted_to: int
    covariances: tuple[Covariance, ...]
    parts: tuple[Residual, ...]

    @classmethod
    def of(cls, predicted_s: Floats, features: Features, measured: Measured) -> Residuals:
        """With constants fitted to all that was measured."""
        prior = (Covariance.prior(features, LOG_OWN_PRIOR[0]),) * len(predicted_s)
        alike = np.zeros(len(measured), dtype=np.int64)
        return cls(predicted_s, features, 0, prior, ()).learn(measured, len(measured), alike)

    def learn(self, measured: Measured, fitted_to: int, distance: NDArray[np.int64]) -> Residuals:
        """From the MOST_LEARNED measurements of a GPU whose `distance` [n] is least; the others tell of their
        own shapes alone. The constants are fitted to the first ones, and stay where they have been fitted to
        as many.
        """
        gpus = zip(self.predicted_s, measured.seconds, measured.error, strict=True)
        covariances, parts = [], []
        for (predicted, seconds, error), kept in zip(gpus, self.covariances, strict=True):
            known = np.isfinite(seconds)
            rows = measured.rows[known]
            targets = np.log(seconds[known] / predicted[rows]) / SPREAD
            noise = (error[known] / SPREAD) ** 2
            if fitted_to != self.fitted_to:
                first = int(known[:fitted_to].sum())
                kept = _fitted(self.features, rows[:first], targets[:first], noise[:first])
            covariances.append(kept)
            learned = np.zeros(len(rows), dtype=bool)
            learned[np.argsort(distance[known], kind="stable")[:MOST_LEARNED]] = True
            parts.append(Residual.of(kept, rows, targets, noise, learned))
        return Residuals(self.predicted_s, self.features, fitted_to, tuple(covariances), tuple(parts))

    def mean(self, rows: Rows) -> Floats:
        """Of ln(true / predicted) for rows of the candidates, measured or not, [G, M]."""
        return np.stack([part.mean(rows) for part in self.parts])

    def at(self, rows: Rows) -> tuple[Floats, Floats]:
        """Mean and deviation of ln(true / predicted) for candidates that were not measured, [G, M] each."""
        found = [part.at(rows) for part in self.parts]
        return np.stack([mean for mean, _ in found]), np.stack([deviation for _, deviation in found])


def _fitted(features: Features, rows: Rows, targets: Floats, noise: Floats) -> Covariance:
    prior = Covariance.prior(features, LOG_OWN_PRIOR[0])
    if len(rows) < FEWEST_FITTED:
        return prior
    return fitted(prior, rows, targets - np.median(targets), noise, LOG_OWN_PRIOR)


def shape_features(shapes: ShapeTable) -> Features:
    """What a prediction's error may depend on: sizes, and the powers of two that divide widths."""
    sizes = [
        shapes.num_hidden_layers,
        shapes.hidden_size,
        shapes.intermediate_size,
        shapes.head_size,
        shapes.global_attn_every_n_layers,
        shapes.local_attention,
        shapes.vocab_size,
    ]
    divisors = [width & -width for width in (shapes.hidden_size, shapes.intermediate_size)]
    return unit_features(np.log2(np.stack(sizes + divisors, axis=1).astype(float)))


def unit_features(columns: Floats) -> Features:
    """Columns [N, F] of any unit, each spread over 0..1; constant ones are left out."""
    low, high = columns.min(axis=0), columns.max(axis=0)
    varying = high > low
    values = (columns[:, varying] - low[varying]) / (high - low)[varying]
    count = int(varying.sum())
    # Between random points distances grow with the root of the features' count; so do the scales to expect.
    scales = np.full(count, 0.5 * np.log(max(count, 1)))
    return Features(values.astype(np.float32), np.arange(count), scales)
