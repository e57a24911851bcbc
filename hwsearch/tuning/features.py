"""What the surrogate sees of a configuration: coordinates, each with the length scale it shares.

A number is a coordinate on 0..1, by its logarithm where it spans much. The largest power of two that
divides it is another, where not all of a parameter's values are powers of two: whether blocks fill warps,
align with memory and divide the problem shows there, and a smooth function of the number itself would
not tell 64 from 72. Most parameters do not care, so these are expected to have a long length scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwsearch.regression.covariance import Features, Floats
from hwsearch.tuning.tuning_space import Setting, TuningSpace

# A parameter whose largest value is this many times its smallest acts through its ratio, not its difference.
LOGARITHMIC_FROM = 4.0
VALUE_LOG_SCALE = 0.0  # expected: about as long as the range of the values


def features_of(space: TuningSpace, divisor_log_scale: float | None) -> Features:
    """Of every configuration; the powers of two that divide are left out where their scale is None."""
    columns: list[Floats] = [np.empty((len(space), 0))]
    scale_of: list[int] = []
    log_scales: list[float] = []
    for values, codes in zip(space.choices, space.codes.T, strict=True):
        for coordinates, log_scale in _coordinates(values, divisor_log_scale):
            columns.append(coordinates[codes])
            scale_of += [len(log_scales)] * coordinates.shape[1]
            log_scales.append(log_scale)
    return Features(
        np.concatenate(columns, axis=1).astype(np.float32),
        np.array(scale_of, dtype=np.int64),
        np.array(log_scales, dtype=float),
    )


def _coordinates(
    values: tuple[Setting, ...], divisor_log_scale: float | None
) -> Iterator[tuple[Floats, float]]:
    """([choices, features], log length scale) of what one parameter gives; a constant gives nothing."""
    if len(values) == 1:
        return
    if any(isinstance(value, str) for value in values):
        yield np.eye(len(values)) / np.sqrt(2.0), VALUE_LOG_SCALE  # two words lie 1 apart
        return
    numbers = np.array(values, dtype=float)
    low, high = numbers.min(), numbers.max()
    if 0 < low * LOGARITHMIC_FROM <= high:
        yield _on_unit_scale(np.log2(numbers)), VALUE_LOG_SCALE
    elif low == 0 and high >= LOGARITHMIC_FROM:
        yield _on_unit_scale(np.log2(numbers + 1)), VALUE_LOG_SCALE
    else:
        yield _on_unit_scale(numbers), VALUE_LOG_SCALE
    if divisor_log_scale is not None and all(value == int(value) > 0 for value in values):
        powers = np.array([int(value) & -int(value) for value in values], dtype=float)
        if (powers != numbers).any() and np.ptp(powers) > 0:
            yield _on_unit_scale(np.log2(powers)), divisor_log_scale


def _on_unit_scale(numbers: Floats) -> Floats:
    return np.asarray((numbers - numbers.min()) / np.ptp(numbers))[:, None]
