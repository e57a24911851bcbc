"""Measurements correct predictions: of what was measured, of its neighbours, of all by a common offset."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.search.measured import residual
from hwsearch.search.measured.residual import Measured, Residuals, unit_features

COUNT, NOISE = 600, 0.03


def grid() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(1, 9, size=(COUNT, 3)).astype(float)


def measured_with(ratio: np.ndarray, count: int, noise: float = NOISE) -> tuple[np.ndarray, Measured]:
    """Predictions of G GPUs, and `count` shapes timed where the truth is `ratio` [G, N] times as long."""
    generator = np.random.default_rng(1)
    predicted = generator.uniform(1e-3, 1e-1, size=ratio.shape)
    rows = generator.permutation(COUNT)[:count]
    seconds = (predicted * ratio)[:, rows] * np.exp(noise * generator.normal(size=(len(ratio), count)))
    return predicted, Measured(rows, seconds, np.full_like(seconds, noise))


def test_a_planted_bias_is_recovered() -> None:
    points = grid()
    log_ratio = 0.4 - 0.05 * points[:, 0] + 0.08 * (points[:, 1] > 4)
    predicted, measured = measured_with(np.exp(log_ratio)[None], 60)
    residuals = Residuals.of(predicted, unit_features(points), measured)
    error = residuals.mean(np.arange(COUNT))[0] - log_ratio
    assert np.sqrt((error**2).mean()) < 0.04 < log_ratio.std() / 2
    others = np.setdiff1d(np.arange(COUNT), measured.rows)
    mean, deviation = residuals.at(others)
    assert mean[0] == pytest.approx(log_ratio[others] + error[others], abs=1e-6)
    assert np.abs(error[others] / deviation[0]).mean() < 1.5, "and it knows how sure it is"


def test_before_anything_is_measured_predictions_stand() -> None:
    nothing = np.empty((2, 0))
    measured = Measured(np.empty(0, dtype=np.int64), nothing, nothing)
    residuals = Residuals.of(np.ones((2, COUNT)), unit_features(grid()), measured)
    mean, deviation = residuals.at(np.arange(COUNT))
    assert (mean == 0).all() and (deviation > 0.05).all()


def test_few_measurements_shift_all_shapes_alike() -> None:
    predicted, measured = measured_with(np.full((1, COUNT), 1.5), 3, noise=0.001)
    mean = Residuals.of(predicted, unit_features(grid()), measured).mean(np.arange(COUNT))
    assert mean[0] == pytest.approx(np.log(1.5), abs=0.01)


@pytest.mark.parametrize("noise", [0.001, 0.1])
def test_a_measured_shape_is_believed_as_far_as_its_measurement_is_sharp(noise: float) -> None:
    """One shape of many is 20 % slower, for no reason that its features could give."""
    own = np.ones((1, COUNT))
    predicted, measured = measured_with(own, 40, noise=0.001)
    measured.seconds[0, 7] *= 1.2
    measured.error[0, 7] = noise
    residuals = Residuals.of(predicted, unit_features(grid()), measured)
    mean = residuals.mean(measured.rows[[7]])
    if noise < 0.01:
        assert mean[0, 0] == pytest.approx(np.log(1.2), abs=0.01)
    else:
        assert mean[0, 0] < 0.1


@pytest.mark.parametrize("noise", [1e-4, 0.3])
def test_what_is_not_learned_from_tells_of_its_own_shape_alone(
    monkeypatch: pytest.MonkeyPatch, noise: float
) -> None:
    """40 shapes take 1.5 times as long, 20 of them are learned from; one of the others is said to take 3."""
    monkeypatch.setattr(residual, "MOST_LEARNED", 20)
    predicted, measured = measured_with(np.full((1, COUNT), 1.5), 40, noise=0.001)
    measured.seconds[0, 30] *= 2
    measured.error[0, 30] = noise
    features = unit_features(grid())
    few = Residuals.of(predicted, features, measured.first(20))
    residuals = few.learn(measured, 20, np.arange(40))
    believed = residuals.mean(measured.rows)[0]
    assert believed[30] == pytest.approx(np.log(3 if noise < 0.1 else 1.5), abs=0.02)
    assert np.delete(believed, 30) == pytest.approx(np.log(1.5), abs=0.01)
    others = np.setdiff1d(np.arange(COUNT), measured.rows)
    assert (np.stack(residuals.at(others)) == np.stack(few.at(others))).all()


def test_a_gpu_that_has_gone_away_keeps_what_it_has_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shapes are measured on the other one since, and however near the front."""
    monkeypatch.setattr(residual, "MOST_LEARNED", 20)
    predicted, measured = measured_with(np.full((2, COUNT), 1.5), 60, noise=0.001)
    measured.seconds[1, 10:] = np.nan
    residuals = Residuals.of(predicted, unit_features(grid()), measured)
    mean = residuals.learn(measured, 60, np.arange(60)[::-1]).mean(np.arange(COUNT))
    assert mean == pytest.approx(np.full((2, COUNT), np.log(1.5)), abs=0.01)


def test_a_gpu_learns_from_its_own_measurements_alone() -> None:
    ratio = np.stack([np.full(COUNT, 2.0), np.full(COUNT, 0.5), np.full(COUNT, 3.0)])
    predicted, measured = measured_with(ratio, 20)
    measured.seconds[1, 3:] = np.nan
    measured.seconds[2] = np.nan
    mean = Residuals.of(predicted, unit_features(grid()), measured).mean(np.arange(COUNT))
    assert mean[0] == pytest.approx(np.log(2.0), abs=0.08)
    assert mean[1] == pytest.approx(np.log(0.5), abs=0.08)
    assert (mean[2] == 0).all(), "never measured: the prediction stands"


def test_features_that_do_not_vary_are_left_out() -> None:
    features = unit_features(np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0], [2.0, 5.0, 4.0]]))
    assert features.values.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.5, 1.0]]
    one = unit_features(np.ones((4, 2)))
    measured = Measured(np.array([1]), np.array([[2.0]]), np.array([[0.01]]))
    mean = Residuals.of(np.ones((1, 4)), one, measured).mean(np.arange(4))
    assert mean[0] == pytest.approx(np.log(2.0))
