"""Fronts, their order and coverage against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.search.pareto import REFERENCE_POINT, Coverage, front_rows, most_covering_first

points = st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=25).map(
    lambda rows: np.array(rows, dtype=float)
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(points)
def test_the_front_is_what_nobody_dominates(losses: np.ndarray) -> None:
    rows = front_rows(losses)
    expected = {tuple(p) for p in losses if not any(dominates(q, p) for q in losses)}
    assert {tuple(p) for p in losses[rows]} == expected
    assert len(rows) == len(expected), "equal rows are kept once"


def covered_by_counting(front: np.ndarray, chosen: np.ndarray) -> float:
    """Hypervolume on the integer grid, cell by cell (plus the margin beyond the nadir)."""
    ideal, nadir = front.min(axis=0), front.max(axis=0)
    span = np.where(nadir > ideal, nadir - ideal, 1.0)
    edges = [np.unique(np.append((front[:, k] - ideal[k]) / span[k], REFERENCE_POINT)) for k in range(3)]
    total = 0.0
    for i in range(len(edges[0]) - 1):
        for j in range(len(edges[1]) - 1):
            for k in range(len(edges[2]) - 1):
                corner = np.array([edges[0][i], edges[1][j], edges[2][k]])
                if (((chosen - ideal) / span) <= corner + 1e-12).all(axis=1).any():
                    total += np.prod([e[n + 1] - e[n] for e, n in zip(edges, (i, j, k), strict=True)])
    return float(total)


@settings(max_examples=40)
@given(points, st.integers(1, 5))
def test_coverage_is_the_dominated_volume(losses: np.ndarray, count: int) -> None:
    front = losses[front_rows(losses)]
    coverage = Coverage.of(front)
    assert coverage.share(front) == pytest.approx(1.0)
    expected = covered_by_counting(front, front[:count]) / covered_by_counting(front, front)
    assert coverage.share(front[:count]) == pytest.approx(expected)


@settings(max_examples=40)
@given(points)
def test_the_order_is_greedy(losses: np.ndarray) -> None:
    front = losses[front_rows(losses)]
    order = most_covering_first(front, len(front))
    assert sorted(order) == list(range(len(front)))
    coverage = Coverage.of(front)
    for taken in range(min(4, len(front))):
        shares = [coverage.share(front[[*order[:taken], row]]) for row in range(len(front))]
        assert shares[order[taken]] == pytest.approx(max(shares))


def test_points_beyond_the_reference_count_nothing() -> None:
    coverage = Coverage.of(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert coverage.share(np.array([[5.0, 5.0]])) == 0.0
