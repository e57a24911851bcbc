"""How far a prediction may be off: factors around it that hold 90 % of the measurements.

An operator takes them from the evidence of its constants: quantiles of measured / predicted on held-out rows
of the GPU itself or, where constants were transferred, on the rows of GPUs that were left out of the fit. How
much of a left-out GPU the factors of the others hold is printed by each script in benchmarks/fit_*.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.operators import OPERATORS, Variant
from hwsearch.gpu.profile import Gpu

OUTSIDE = (0.05, 0.95)
# Where nothing was measured, as on a CPU: no quantiles to take, so a guess that errs on the wide side.
UNKNOWN = (0.5, 2.0)
# Whole encoders, all runtimes together: from GPUs left out, as benchmarks/encoders.py prints it.
ENCODER_INTERVAL = (0.84, 1.81)


def operator_interval(gpu: Gpu, dtype: str, op: str, variant: Variant) -> tuple[float, float]:
    """Factors (low <= 1 <= high) around the price of `op`, one of `OPERATORS`, on `gpu` in `dtype`."""
    evidence = OPERATORS[op].evidence(gpu, dtype, variant)
    if evidence.low_factor is None or evidence.high_factor is None:
        return UNKNOWN
    return evidence.low_factor, evidence.high_factor


def factors_of(ratio: NDArray[np.float64]) -> tuple[float, float]:
    """Factors (low <= 1 <= high) that hold 90 % of measured / predicted, from predicted / measured."""
    low, high = np.quantile(1 / ratio, OUTSIDE)
    return min(float(low), 1.0), max(float(high), 1.0)
