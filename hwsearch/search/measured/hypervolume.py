"""What points would add to the hypervolume of a front, for many points at once.

The region that a front leaves undominated is cut into boxes that do not overlap; what a point adds is its
share of each. The cut goes over local upper bounds: Lacour, Klamroth and Fonseca 2017, A box decomposition
algorithm to compute the hypervolume indicator. Smaller losses are better throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRODUCTS_AT_ONCE = 50_000  # so that they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Boxes:
    """What a front leaves undominated below a reference point.

    Attributes:
        lower, upper: corners, [B, K]; lower corners may be -inf.
    """

    lower: Floats
    upper: Floats

    @classmethod
    def beyond(cls, front: Floats, reference: Floats) -> Boxes:
        """From the losses of a front [F, K], which may hold dominated points, and the reference point [K]."""
        inside = front[(front < reference).all(axis=1)]
        inside = inside[moocore.is_nondominated(inside)] if len(inside) else inside
        bounds, _ = _local_upper_bounds(inside, reference)
        # The undominated region is what the bounds dominate, seen with the sign turned.
        bounds, defining = _local_upper_bounds(-bounds, np.full(len(reference), np.inf))
        lower, upper = _disjoint(bounds, defining)
        return cls(-upper, -lower)

    def gains(self, points: Floats) -> Floats:
        """What each of `points` [P, K] alone would add to the hypervolume, [P]."""
        found = np.zeros(len(points))
        step = max(1, PRODUCTS_AT_ONCE // max(1, len(self.lower)))
        for start in range(0, len(points), step):
            part = points[start : start + step, None, :]
            volume = np.ones(1)
            for k in range(points.shape[1]):
                edge = self.upper[:, k] - np.maximum(self.lower[:, k], part[..., k])
                volume = volume * np.maximum(edge, 0.0)
            found[start : start + step] = volume.sum(axis=1)
        return found


def headroom(points: Floats, front: Floats) -> Floats:
    """How much every loss of a point could grow before the front dominates it, [P]; negative where it does.

    Additive epsilon indicator of points [P, K] against a front [F, K], in the units of the losses.
    """
    if not len(front):
        return np.full(len(points), np.inf)
    found = np.empty(len(points))
    step = max(1, PRODUCTS_AT_ONCE // len(front))
    for start in range(0, len(points), step):
        part = points[start : start + step, None, :]
        largest = front[:, 0] - part[..., 0]
        for k in range(1, points.shape[1]):
            np.maximum(largest, front[:, k] - part[..., k], out=largest)
        found[start : start + step] = largest.min(axis=1)
    return found


def _local_upper_bounds(front: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """The corners of what the front leaves, [U, K], and the points that define each coordinate, [U, K, K]."""
    size = len(reference)
    # Of a corner's coordinate k the k-th of the points that define it is the bound.
    corners = np.where(np.eye(size, dtype=bool), reference, -np.inf)[None]
    # In ascending order of the last loss, where what one point bounds no later one splits.
    done: list[Floats] = []
    for point in front[np.lexsort(front.T)]:
        above = (point < np.einsum("ukk->uk", corners)).all(axis=1)
        if not above.any():
            continue
        old, kept = corners[above], [corners[~above]]
        for k in range(size):
            others = old[:, np.arange(size) != k, k]
            moved = old[(point[k] >= others).all(axis=1)]
            moved[:, k] = point
            (kept if k < size - 1 else done).append(moved)
        corners = np.concatenate(kept)
    corners = np.concatenate([corners, *done])
    return np.einsum("ukk->uk", corners), corners


def _disjoint(bounds: Floats, defining: Floats) -> tuple[Floats, Floats]:
    """The region dominated up to infinity, given its local upper bounds: corners of boxes, [B, K] each."""
    lower, upper = bounds.copy(), bounds.copy()
    upper[:, 0] = np.inf
    for k in range(1, bounds.shape[1]):
        lower[:, k] = defining[:, :k, k].max(axis=1)
    filled = (lower < upper).all(axis=1)
    return lower[filled], upper[filled]
