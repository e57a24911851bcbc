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
LOG_SCALE_BOUNDS = (-4.0, 6.0)
LOG_VARIANCE_BOUNDS = (-4.0, 4.0)
LOG_NOISE_BOUNDS = (-9.0, 1.0)
LIKELIHOOD_STEPS = 30

# Priors on the logarithms, mean and standard deviation: variance about that of the standardised targets,
# noise of some 5 % of their spread; the means of the scales come with the features.
LOG_SCALE_DEVIATION = 1.0
LOG_VARIANCE_PRIOR = (0.0, 1.0)
LOG_NOISE_PRIOR = (-6.0, 2.0)


@dataclass(frozen=True, eq=False)
class Features:
    """What a covariance sees of N points.

    Attributes:
        values: [N, features].
        scale_of: [features], which length scale a feature has.
        log_scales: [scales], the length scales to expect.
    """

    values: NDArray[np.float32]
    scale_of: NDArray[np.int64]
    log_scales: Floats


@dataclass(frozen=True, eq=False)
class Covariance:
    """The constants of one covariance.

    Attributes:
        log_constants: [scales + 2]: log length scales, log variance, log noise variance.
        features: whose length scales these are.
    """

    log_constants: Floats
    features: Features

    @classmethod
    def prior(cls, features: Features, log_noise: float = LOG_NOISE_PRIOR[0]) -> Covariance:
        return cls(np.r_[features.log_scales, LOG_VARIANCE_PRIOR[0], log_noise], features)

    @property
    def variance(self) -> float:
        return float(np.exp(self.log_constants[-2]))

    @property
    def noise(self) -> float:
        return float(np.exp(self.log_constants[-1])) + JITTER

    def between(self, a: Array, b: Array) -> Array:
        """[A, B], between rows of features [A, features] and [B, features], in the precision of these."""
        scales = np.exp(self.log_constants[self.features.scale_of]).astype(a.dtype)
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


def fitted(
    start: Covariance,
    rows: NDArray[np.int64],
    targets: Floats,
    known_noise: Floats | float = 0.0,
    log_noise_prior: tuple[float, float] = LOG_NOISE_PRIOR,
) -> Covariance:
    """The most probable constants given standardised `targets` [n] at `rows` [n] of the features.

    Gradient ascent from `start`; the posterior has several maxima, so the start matters. `known_noise` [n]
    are variances of the targets besides the noise that is fitted.
    """
    features = start.features
    count = len(features.log_scales)
    squares = np.zeros((count, len(rows), len(rows)))
    for column, scale in zip(features.values[rows].astype(float).T, features.scale_of, strict=True):
        squares[scale] += (column[:, None] - column[None]) ** 2
    priors = np.array(
        [(mean, LOG_SCALE_DEVIATION) for mean in features.log_scales] + [LOG_VARIANCE_PRIOR, log_noise_prior]
    )
    bounds = [LOG_SCALE_BOUNDS] * count + [LOG_VARIANCE_BOUNDS, LOG_NOISE_BOUNDS]
    found = minimize(
        _negative_log_posterior,
        start.log_constants,
        (squares, targets, priors, known_noise),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": LIKELIHOOD_STEPS},
    )
    return Covariance(np.asarray(found.x), features)


def _negative_log_posterior(
    log_constants: Floats, squares: Floats, targets: Floats, priors: Floats, known_noise: Floats | float
) -> tuple[float, Floats]:
    """And its gradient.

    Args:
        squares: [scales, n, n], squared differences of the features that share a length scale.
        priors: [scales + 2, 2], mean and standard deviation of each logarithm.
    """
    inverse = np.exp(-2 * log_constants[:-2])
    variance, noise = np.exp(log_constants[-2:])
    r2 = np.tensordot(inverse, squares, 1)
    r = np.sqrt(r2)
    decay = variance * np.exp(-ROOT5 * r)
    smooth = (1 + ROOT5 * r + 5 / 3 * r2) * decay
    try:
        diagonal = np.diag(np.full(len(targets), noise + JITTER) + known_noise)
        lower = cholesky(smooth + diagonal, lower=True, check_finite=False)
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
