"""What was found out about a product while it was priced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOUNDS = ("issue", "latency", "power", "memory", "overhead")


@dataclass(frozen=True)
class GemmPlan:
    """Which variant was priced as the fastest, and why; arrays share the broadcast shape of m, n, k.

    Attributes:
        seconds: float64.
        tile_m, tile_n, split_k, waves: int64.
        tail_utilisation: share of the SMs' time that the waves fill with tiles.
        tile_utilisation: share of the tiles' elements that belong to the result.
        bound: the longest time behind the price, one of `BOUNDS`: products at the clock (issue) or under
            the power limit, latency that no other work hides, or memory; overhead where more than half of
            the time is launch, prologues and partial sums.
    """

    seconds: NDArray[np.float64]
    tile_m: NDArray[np.int64]
    tile_n: NDArray[np.int64]
    split_k: NDArray[np.int64]
    waves: NDArray[np.int64]
    tail_utilisation: NDArray[np.float64]
    tile_utilisation: NDArray[np.float64]
    bound: NDArray[np.str_]


def name_bounds(
    longest: NDArray[np.int64], useful_s: NDArray[np.float64], seconds: NDArray[np.float64]
) -> NDArray[np.str_]:
    """Names of `longest`, indices into BOUNDS, unless `useful_s`, the longest's own, is less than half."""
    return np.array(BOUNDS)[np.where(useful_s < seconds / 2, BOUNDS.index("overhead"), longest)]
