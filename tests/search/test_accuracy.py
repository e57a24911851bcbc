"""What is said of predictions beside measurements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwsearch.search.accuracy import accuracy


def test_error_and_bias_are_medians_of_the_ratio() -> None:
    found = accuracy(np.array([0.9, 0.8, 1.1]), np.ones(3), np.array([10, 20, 30]))
    assert found.shapes == 3
    assert found.median_error == pytest.approx(0.1) and found.bias == pytest.approx(-0.1)


def test_order_is_kendalls_tau() -> None:
    generator = np.random.default_rng(0)
    predicted, measured = generator.random((2, 40))
    found = accuracy(predicted, measured, np.arange(1, 41) * 1000)
    assert found.order == pytest.approx(kendalltau(predicted, measured).statistic)


def test_at_equal_size_only_pairs_within_one_percent_count() -> None:
    # Two sizes; the prediction ranks the sizes right, and within each size wrong.
    predicted, measured = np.array([1.0, 2.0, 10.0, 20.0]), np.array([2.0, 1.0, 20.0, 10.0])
    found = accuracy(predicted, measured, np.array([1000, 1010, 2000, 2019]))
    assert found.order == pytest.approx(2 / 6)
    assert found.equal_order == -1.0 and found.equal_pairs == 2
    apart = accuracy(predicted, measured, np.array([1000, 1011, 2000, 2021]))
    assert apart.equal_order is None and apart.equal_pairs == 0


def test_one_shape_has_no_order() -> None:
    found = accuracy(np.ones(1), np.ones(1), np.array([1]))
    assert found.order is None and found.equal_order is None
