"""Seconds of kernels that only move bytes: norms, activations, residual adds, gathers, optimizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.gpu.profile import Gpu

CACHED_SHARE = 0.8


def stream_seconds(gpu: Gpu, bytes_moved: ArrayLike, norm: ArrayLike = False) -> NDArray[np.float64]:
    """Device time of one kernel that reads and writes `bytes_moved` bytes in all, without its launch.

    seconds = floor + bytes / (bandwidth x bandwidth_fraction), and `cached_speedup` times faster
    while the bytes fit into CACHED_SHARE of L2. `norm`, a bool or bools like `bytes_moved`, marks layer
    norms, which reach norm_bandwidth_fraction instead. Returns float64 seconds in the broadcast shape.
    Numbers: results/fit_constants.md.
    """
    constants = gpu.calibration.stream
    moved = np.asarray(bytes_moved, dtype=np.float64)
    fraction = np.where(norm, constants.norm_bandwidth_fraction, constants.bandwidth_fraction)
    rate = gpu.bandwidth_bytes_per_s * fraction
    cached = moved < CACHED_SHARE * gpu.l2_bytes
    return np.asarray(constants.floor_s + moved / np.where(cached, rate * constants.cached_speedup, rate))
