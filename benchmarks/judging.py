"""How fits are judged: folds to hold out, errors, and the factors around a prediction that hold 90 %.

Ratios are predicted / measured throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from sources import chip

from hwsearch.cost.interval import factors_of
from hwsearch.gpu.calibration import Evidence

Vector = NDArray[np.float64]
FOLDS = 3
ROWS_OF_EACH = 2000
BEING_FITTED = Evidence("fitted", "being fitted", 0)


class Interval(TypedDict):
    """Two attributes of Evidence."""

    low_factor: float
    high_factor: float


def fold_of(groups: NDArray[Any]) -> NDArray[np.int64]:
    """The fold of each row, 0 to FOLDS - 1; rows of one group, numbered from 0, share theirs."""
    return np.asarray(np.random.default_rng(0).permutation(int(groups.max()) + 1)[groups] % FOLDS)


def median_error(ratio: Vector) -> float:
    """Median of the absolute error, in percent."""
    return float(100 * np.median(np.abs(ratio - 1)))


def median_bias(ratio: Vector) -> float:
    """Median of the error, in percent."""
    return float(100 * (np.median(ratio) - 1))


def p90_error(ratio: Vector) -> float:
    """What 90 % of the absolute errors stay below, in percent."""
    return float(100 * np.quantile(np.abs(ratio - 1), 0.9))


def interval(ratio: Vector) -> Interval:
    """Factors that hold 90 % of measured / predicted, from ratios of held-out rows."""
    low, high = factors_of(ratio)
    return {"low_factor": low, "high_factor": high}


def coverage(left_out: Mapping[str, Vector]) -> str:
    """How much of each left-out GPU the interval of the other left-out chips holds: a line of a report.

    Keys are GPUs, or GPU and operator with a blank between them.
    """
    shares = {}
    for name, ratio in left_out.items():
        others = [equal_weight(r) for other, r in left_out.items() if chip(other) != chip(name)]
        bounds = interval(np.concatenate(others))
        held = (1 / ratio >= bounds["low_factor"]) & (1 / ratio <= bounds["high_factor"])
        shares[name] = 100 * float(held.mean())
    each = ", ".join(f"{name} {share:.0f}" for name, share in shares.items())
    return f"90 % intervals from the other left-out GPUs hold {np.mean([*shares.values()]):.0f} % ({each})."


def equal_weight(ratio: Vector) -> Vector:
    """Quantiles of one table, so that tables of any size count alike when they are put together."""
    return np.asarray(np.quantile(ratio, np.linspace(0, 1, ROWS_OF_EACH)))
