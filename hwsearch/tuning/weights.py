"""Several objectives as one number, for an optimizer that knows but one.

An achievement function (Wierzbicki 1982) in the augmented Chebyshev form that ParEGO uses (Knowles 2006),
of logarithms, so that neither units nor scales matter:

    s = max_i w_i d_i + 0.05 sum_i w_i d_i        d_i = log(value_i / reference_i)

With a reference that stays, a value once told stays right; any reference leads to the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Weights = tuple[float, ...]
AUGMENTATION = 0.05


def weights_of(objectives: int) -> tuple[Weights, ...]:
    """Each objective alone, then, where there are several, all alike."""
    alone = tuple(tuple(float(i == j) for j in range(objectives)) for i in range(objectives))
    return alone if objectives == 1 else (*alone, (1 / objectives,) * objectives)


def scalar(values: Sequence[float | None], reference: Sequence[float], weights: Weights) -> float | None:
    """exp(s), a positive number to be minimised; None where a value that counts was not measured.

    An objective alone is its value, bit for bit.
    """
    if weights.count(0.0) == len(weights) - 1:
        return values[weights.index(max(weights))]
    if any(value is None for value in values):
        return None
    logs = [w * math.log(v / r) for v, r, w in zip(values, reference, weights, strict=True) if v is not None]
    return math.exp(max(logs) + AUGMENTATION * sum(logs))
