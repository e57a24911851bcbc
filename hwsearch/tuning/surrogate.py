"""A Gaussian process over a list of candidates, to which observations are added one at a time.

With L the Cholesky factor of the observations' covariance K and k the covariance between observations and
candidates, V = L^-1 k gives every candidate's mean, V' (L^-1 y), and variance, k0 - sum of V^2. A new
observation adds one row to L and to V: O(n * candidates), where starting anew costs O(n^2 * candidates).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr

from hwsearch.regression.covariance import Array, Covariance, Floats

Rows = NDArray[np.int64]

CHUNK = 16_384  # candidates priced at once, to bound the memory that a start anew takes
SMALLEST_VARIANCE = 1e-8


class Surrogate:
    """Predictions for `candidates`, rows of the space, that follow the observations.

    The shortlist holds the candidates with the highest expected improvement when it was made: between
    two starts only few others could become the best, and additions cost in proportion to its length.
    """

    def __init__(
        self,
        covariance: Covariance,
        observed: Rows,
        targets: Floats,
        candidates: Rows,
        shortlist: int,
        room: int,
    ) -> None:
        """`observed` [n] and `candidates` are rows of the features; `room` is for observations to come."""
        self._covariance = covariance
        self._features = features = covariance.features.values
        self._observed = np.empty(len(observed) + room, dtype=np.int64)
        self._observed[: len(observed)] = observed
        self._count = len(observed)
        known = features[observed].astype(float)
        covariances = covariance.between(known, known)
        covariances[np.diag_indices_from(covariances)] = covariance.variance + covariance.noise
        self._lower = np.zeros((len(self._observed),) * 2)
        self._lower[: self._count, : self._count] = cholesky(covariances, lower=True, check_finite=False)
        self.shortlist, start = self._most_promising(candidates, targets, shortlist)
        self._shortlisted = features[self.shortlist]
        self._solutions = np.empty((len(self._observed), len(self.shortlist)), dtype=np.float32)
        self._solutions[: self._count] = start
        self._explained = np.einsum("ij,ij->j", start, start)

    @property
    def room(self) -> int:
        return len(self._observed) - self._count

    def observe(self, row: int) -> None:
        """Add an observation at `row`; its target comes with the next question."""
        n = self._count
        here = self._features[row : row + 1]
        new = self._covariance.between(here.astype(float), self._features[self._observed[:n]])[0]
        left = solve_triangular(self._lower[:n, :n], new, lower=True, check_finite=False)
        own = np.sqrt(
            max(
                self._covariance.variance + self._covariance.noise - left @ left,
                self._covariance.noise,
            )
        )
        solution = self._covariance.between(here, self._shortlisted)[0]
        solution -= left.astype(np.float32) @ self._solutions[:n]
        solution /= np.float32(own)
        self._lower[n, :n] = left
        self._lower[n, n] = own
        self._solutions[n] = solution
        self._explained = self._explained + solution * solution
        self._observed[n] = row
        self._count = n + 1

    def improvement(self, targets: Floats, pending: Rows) -> Floats:
        """Log expected improvement of each of the shortlist over the lowest of `targets` [n].

        `pending` rows are being measured: each counts as seen, with the value predicted for it, which
        lowers the variance around it and leaves the means as they are.
        """
        n, explained = self._count, self._explained
        for row in pending[: self.room]:
            self.observe(int(row))
        variance = self._covariance.variance - self._explained
        self._count, self._explained = n, explained
        weights = solve_triangular(self._lower[:n, :n], targets, lower=True, check_finite=False)
        mean = weights.astype(np.float32) @ self._solutions[:n]
        return _log_improvement(mean, variance, targets.min())

    def _solved(self, candidates: Rows) -> Array:
        n = self._count
        between = self._covariance.between(self._features[self._observed[:n]], self._features[candidates])
        lower = self._lower[:n, :n].astype(np.float32)
        return np.asarray(solve_triangular(lower, between, lower=True, overwrite_b=True, check_finite=False))

    def _most_promising(self, candidates: Rows, targets: Floats, count: int) -> tuple[Rows, Array]:
        """The best `count` of the candidates, in their order, and their columns of V."""
        n = self._count
        weights = solve_triangular(self._lower[:n, :n], targets, lower=True, check_finite=False)
        kept, columns, improvements = [], [], []
        for start in range(0, max(1, len(candidates)), CHUNK):
            chunk = candidates[start : start + CHUNK]
            solved = self._solved(chunk)
            variance = self._covariance.variance - np.einsum("ij,ij->j", solved, solved)
            improvement = _log_improvement(weights.astype(np.float32) @ solved, variance, targets.min())
            best = _highest(improvement, count)
            kept.append(chunk[best])
            columns.append(solved[:, best])
            improvements.append(improvement[best])
        best = _highest(np.concatenate(improvements), count)
        return np.concatenate(kept)[best], np.concatenate(columns, axis=1)[:, best]


def _highest(values: Floats, count: int) -> Rows:
    """Places of the `count` highest values, ascending."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.sort(np.argpartition(-values, count)[:count])


def _log_improvement(mean: Array, variance: Array, lowest: np.float64) -> Floats:
    deviation = np.sqrt(np.maximum(variance.astype(float), SMALLEST_VARIANCE))
    z = (lowest - mean) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return np.asarray(np.log(np.maximum(deviation * (z * ndtr(z) + density), 1e-300)))
