"""Seconds of kernels that only move bytes: norms, activations, residual adds, gathers, optimizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.gpu.profile import Gpu

CACHED_SHARE = 0.8


def stream_seconds(gpu: Gpu, bytes_moved: ArrayLike) -> NDArray[np.float64]:
    """Device time of one kernel that reads and writes `bytes_moved` bytes in all, without its launch.

    seconds = floor + bytes / (bandwidth x bandwidth_fraction), and `cached_speedup` times faster
    while the bytes fit into CACHED_SHARE of L2. Returns float64 seconds in the shape of `bytes_moved`.
    """
    constants = gpu.calibration.stream
    moved = np.asarray(bytes_moved, dtype=np.float64)
    rate = gpu.bandwidth_bytes_per_s * constants.bandwidth_fraction
    cached = moved < CACHED_SHARE * gpu.l2_bytes
    return np.asarray(constants.floor_s + moved / np.where(cached, rate * constants.cached_speedup, rate))
