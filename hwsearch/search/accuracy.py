"""How far predictions are from measurements of the same shapes, and whether they rank them alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.search.candidates import Floats
from hwsearch.search.winners import EQUAL_SIZE


@dataclass(frozen=True)
class Accuracy:
    """Of N shapes on one GPU.

    Attributes:
        shapes: N.
        median_error: median of |predicted / measured - 1|.
        bias: median of predicted / measured - 1; below 0 the predictions are too fast.
        order: Kendall's tau over all pairs of shapes: 1 where every pair is ranked alike, 0 for chance. None
            without a pair.
        equal_order: the same over the pairs whose parameters differ by 1 % at most, where size alone says
            nothing; None without such a pair.
        equal_pairs: how many those are.
    """

    shapes: int
    median_error: float
    bias: float
    order: float | None
    equal_order: float | None
    equal_pairs: int


def accuracy(predicted: Floats, measured: Floats, parameters: NDArray[np.int64]) -> Accuracy:
    """From seconds [N] of both kinds and each shape's parameters [N]; N is 1 or more."""
    ratios = predicted / measured
    first, second = np.triu_indices(len(ratios), k=1)
    alike = np.sign(predicted[first] - predicted[second]) * np.sign(measured[first] - measured[second])
    larger = np.maximum(parameters[first], parameters[second])
    equal = np.abs(parameters[first] - parameters[second]) <= EQUAL_SIZE * larger
    return Accuracy(
        shapes=len(ratios),
        median_error=float(np.median(np.abs(ratios - 1))),
        bias=float(np.median(ratios) - 1),
        order=_mean(alike),
        equal_order=_mean(alike[equal]),
        equal_pairs=int(equal.sum()),
    )


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
