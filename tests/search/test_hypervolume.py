"""What a point adds to a front's hypervolume, against moocore's own count."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hwsearch.search.hypervolume import Boxes, headroom

Floats = NDArray[np.float64]
# A coarse lattice, so that equal coordinates, equal points and points on the border come up all the time.
VALUES = st.integers(-2, 12).map(lambda tenths: tenths / 10)


@st.composite
def fronts_and_points(draw: st.DrawFn) -> tuple[Floats, Floats]:
    size = draw(st.integers(2, 4))
    front = draw(arrays(float, (draw(st.integers(0, 12)), size), elements=VALUES))
    points = draw(arrays(float, (draw(st.integers(1, 6)), size), elements=VALUES))
    return front, points


def volume(points: Floats, reference: Floats) -> float:
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


@settings(deadline=None, max_examples=200)
@given(fronts_and_points())
def test_gains_are_differences_of_hypervolume(case: tuple[Floats, Floats]) -> None:
    front, points = case
    reference = np.ones(points.shape[1])
    before = volume(front, reference)
    expected = [volume(np.vstack([front, point]), reference) - before for point in points]
    assert Boxes.beyond(front, reference).gains(points) == pytest.approx(expected, abs=1e-12)


def test_of_one_objective_the_gain_is_the_improvement() -> None:
    boxes = Boxes.beyond(np.array([[0.7], [0.4]]), np.ones(1))
    assert boxes.gains(np.array([[0.1], [0.4], [0.6], [2.0]])) == pytest.approx([0.3, 0, 0, 0])


def test_points_with_an_infinite_loss_neither_count_nor_gain() -> None:
    boxes = Boxes.beyond(np.array([[np.inf, 0.0], [0.5, 0.5]]), np.ones(2))
    assert boxes.gains(np.array([[0.0, np.inf], [0.0, 0.75]])) == pytest.approx([0.0, 0.125])


@settings(deadline=None)
@given(fronts_and_points())
def test_headroom_is_negative_exactly_where_a_point_is_worse_in_everything(
    case: tuple[Floats, Floats],
) -> None:
    front, points = case
    worse = [bool((front < point).all(axis=1).any()) for point in points]
    assert (headroom(points, front) < 0).tolist() == worse


def test_a_point_that_grows_by_its_headroom_is_just_dominated() -> None:
    front = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert headroom(np.array([[0.3, 0.4], [-1.0, 5.0]]), front) == pytest.approx([0.6, 1.0])
