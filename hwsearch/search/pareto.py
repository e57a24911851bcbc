"""Pareto fronts: which candidates are on one, in which order they are worth trying, how much they cover."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from hwsearch.search.candidates import Floats

# Exact hypervolume grows exponentially with the objectives; beyond this another order must do.
MOST_HYPERVOLUME_OBJECTIVES = 4
# Normalised objectives span 0..1 on the front; the extremes count through this margin.
REFERENCE_POINT = 1.1


def front_rows(losses: Floats) -> NDArray[np.int64]:
    """Rows of `losses` [N, K] (smaller is better) that no other row dominates; of equal rows the first."""
    if not len(losses):
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(moocore.is_nondominated(losses))


@dataclass(frozen=True, eq=False)
class Coverage:
    """Hypervolume as a share of what the whole front dominates."""

    ideal: Floats
    span: Floats
    whole: float

    @classmethod
    def of(cls, front: Floats) -> Coverage:
        """From the losses of the true front, [F, K]."""
        ideal = front.min(axis=0)
        span = np.where(front.max(axis=0) > ideal, front.max(axis=0) - ideal, 1.0)
        unit = cls(ideal, span, 1.0)
        return cls(ideal, span, unit.share(front))

    def share(self, losses: Floats) -> float:
        """What `losses` [N, K] dominate; 1 for the whole front."""
        normalised = (losses - self.ideal) / self.span
        inside = normalised[(normalised < REFERENCE_POINT).all(axis=1)]
        if not len(inside):
            return 0.0
        point = np.full(losses.shape[1], REFERENCE_POINT)
        return float(moocore.hypervolume(inside, ref=point)) / self.whole


def most_covering_first(front: Floats, count: int) -> list[int]:
    """Rows of `front` [F, K] in the order in which each adds most hypervolume, the first `count`.

    Hypervolume is submodular: what a row adds only shrinks as others are taken, so a row whose old
    gain still tops the heap after an update is the best (lazy greedy, exact).
    """
    coverage = Coverage.of(front)
    heap = [(-coverage.share(front[[row]]), row, 0) for row in range(len(front))]
    heapq.heapify(heap)
    taken: list[int] = []
    covered = 0.0
    while heap and len(taken) < count:
        gain, row, known_at = heapq.heappop(heap)
        if known_at < len(taken):
            fresh = coverage.share(front[[*taken, row]]) - covered
            heapq.heappush(heap, (-fresh, row, len(taken)))
            continue
        taken.append(row)
        covered -= gain
    return taken
