"""A Matern-5/2 covariance with a length scale for every parameter, and the fit of its constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Array = NDArray[Any]

ROOT5 = 5**0.5
JITTER = 1e-6
LARGEST_LOG_SCALE = 4.0
LOG_NOISE_BOUNDS = (-9.0, 1.0)
LIKELIHOOD_STEPS = 30

# Priors on the logarithms, mean and standard deviation: scales about as long as a parameter's whole range,
# variance about that of the standardised targets, noise of some 5 % of their spread.
LOG_SCALE_PRIOR = (0.0, 1.0)
LOG_VARIANCE_PRIOR = (0.0, 1.0)
LOG_NOISE_PRIOR = (-6.0, 2.0)


@dataclass(frozen=True, eq=False)
class Covariance:
    """The constants of one covariance.

    Attributes:
        log_constants: [parameters + 2]: log length scales, log variance, log noise variance.
        feature_parameters: [features], the parameter whose length scale a feature has.
    """

    log_constants: Floats
    feature_parameters: NDArray[np.int64]

    @classmethod
    def prior(cls, feature_parameters: NDArray[np.int64]) -> Covariance:
        count = int(feature_parameters.max(initial=-1)) + 1
        scales = np.full(count, LOG_SCALE_PRIOR[0])
        return cls(np.r_[scales, LOG_VARIANCE_PRIOR[0], LOG_NOISE_PRIOR[0]], feature_parameters)

    @property
    def variance(self) -> float:
        return float(np.exp(self.log_constants[-2]))

    @property
    def noise(self) -> float:
        return float(np.exp(self.log_constants[-1])) + JITTER

    def between(self, a: Array, b: Array) -> Array:
        """[A, B], between rows of features [A, features] and [B, features], in the precision of these."""
        scales = np.exp(self.log_constants[self.feature_parameters]).astype(a.dtype)
        a, b = a / scales, b / scales
        squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
        np.maximum(squares, 0, out=squares)
        distance = ROOT5 * np.sqrt(squares)
        squares *= 5 / 3
        squares += distance
        squares += 1
        squares *= np.exp(-distance)
        squares *= self.variance
        return np.asarray(squares)


def fitted(start: Covariance, features: Array, targets: Floats) -> Covariance:
    """The most probable constants given standardised `targets` [n] at `features` [n, features].

    Gradient ascent from `start`; the posterior has several maxima, so the start matters.
    """
    a = features.astype(float)
    count = len(start.log_constants) - 2
    squares = np.zeros((count, len(a), len(a)))
    for column, parameter in zip(a.T, start.feature_parameters, strict=True):
        squares[parameter] += (column[:, None] - column[None]) ** 2
    bounds = [(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)] * (count + 1) + [LOG_NOISE_BOUNDS]
    found = minimize(
        _negative_log_posterior,
        start.log_constants,
        (squares, targets),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": LIKELIHOOD_STEPS},
    )
    return Covariance(np.asarray(found.x), start.feature_parameters)


def _negative_log_posterior(log_constants: Floats, squares: Floats, targets: Floats) -> tuple[float, Floats]:
    """And its gradient; `squares` [parameters, n, n] are squared differences of each parameter."""
    priors = np.array([LOG_SCALE_PRIOR] * len(squares) + [LOG_VARIANCE_PRIOR, LOG_NOISE_PRIOR])
    inverse = np.exp(-2 * log_constants[:-2])
    variance, noise = np.exp(log_constants[-2:])
    r2 = np.tensordot(inverse, squares, 1)
    r = np.sqrt(r2)
    decay = variance * np.exp(-ROOT5 * r)
    smooth = (1 + ROOT5 * r + 5 / 3 * r2) * decay
    try:
        lower = cholesky(smooth + (noise + JITTER) * np.eye(len(targets)), lower=True, check_finite=False)
    except LinAlgError:
        return 1e10, np.zeros_like(log_constants)
    weights = cho_solve((lower, True), targets, check_finite=False)
    # d(-log likelihood)/dK = -(w w' - K^-1) / 2
    slope = np.outer(weights, weights) - cho_solve((lower, True), np.eye(len(targets)), check_finite=False)
    # dK/d(log scale) = 5/3 (1 + sqrt5 r) exp(-sqrt5 r) * squared difference / scale^2
    by_scale = slope * (5 / 3) * (1 + ROOT5 * r) * decay
    gradient = np.empty_like(log_constants)
    gradient[:-2] = -0.5 * np.tensordot(squares, by_scale, 2) * inverse
    gradient[-2] = -0.5 * (slope * smooth).sum()
    gradient[-1] = -0.5 * noise * np.trace(slope)
    offsets = (log_constants - priors[:, 0]) / priors[:, 1]
    value = 0.5 * targets @ weights + np.log(np.diag(lower)).sum() + 0.5 * offsets @ offsets
    return float(value), gradient + offsets / priors[:, 1]
