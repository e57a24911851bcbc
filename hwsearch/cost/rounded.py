"""A maximum with a rounded corner, for two things that overlap but get in each other's way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rounded_maximum(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(a^4 + b^4)^(1/4) of two times, one of them above 0; where they are equal 19 % more than either."""
    larger = np.maximum(a, b)
    ratio = np.minimum(a, b) / larger
    ratio *= ratio
    # Squares and square roots are much faster than general powers.
    return np.asarray(larger * np.sqrt(np.sqrt(1 + ratio * ratio)))
