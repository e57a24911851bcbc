"""Features put numbers on scales, words apart, and tell what divides by powers of two."""

from __future__ import annotations

import numpy as np

from hwsearch.tuning.features import VALUE_LOG_SCALE, features_of
from hwsearch.tuning.tuning_space import Setting, TuningSpace


def columns(*values: Setting) -> list[list[float]]:
    """The features of a kernel with one parameter of these values."""
    return features_of(TuningSpace.of(("p",), [(value,) for value in values]), 3.0).values.T.tolist()


def test_numbers_lie_on_a_unit_scale_by_their_ratio_where_that_is_large() -> None:
    assert columns(16, 1024, 128) == [[0.0, 1.0, 0.5]]
    assert columns(0.5, 1.5, 1.0) == [[0.0, 1.0, 0.5]]
    assert columns(0, 3, 15) == [[0.0, 0.5, 1.0]]
    assert columns(False, True) == [[0.0, 1.0]]


def test_words_lie_one_apart() -> None:
    words = np.array(columns("row", "column", "tile")).T
    distances = np.linalg.norm(words[:, None] - words[None], axis=-1)
    np.testing.assert_allclose(distances, 1 - np.eye(3), rtol=1e-6)


def test_what_divides_is_a_feature_of_its_own_where_values_differ_in_it() -> None:
    value, divisor = columns(48, 64, 72, 96)
    assert value == sorted(value) and np.allclose(divisor, [1 / 3, 1.0, 0.0, 2 / 3])
    assert len(columns(16, 32, 64)) == 1  # the value says it
    assert len(columns(3, 5, 7)) == 1  # none divides
    assert len(columns(0, 3, 4)) == 1  # anything divides 0
    assert len(columns(1.5, 2.0, 6.0)) == 1


def test_constants_have_no_feature_and_divisors_start_with_long_scales() -> None:
    features = features_of(TuningSpace.of(("a", "b"), [(7, 1), (7, 6), (7, 8)]), 2.5)
    assert features.values.shape == (3, 2)
    assert features.log_scales.tolist() == [VALUE_LOG_SCALE, 2.5]
    assert features_of(TuningSpace.of(("a",), [(7,)]), 3.0).values.shape == (1, 0)
    assert features_of(TuningSpace.of(("b",), [(1,), (6,)]), None).values.shape == (2, 1)
