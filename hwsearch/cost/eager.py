"""What eager PyTorch adds to one operator that is timed alone: the host has to launch it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class HostTime:
    """`floor_s`: between two calls on the host alone; `gap_s`: between kernels that the device waits for."""

    floor_s: float
    gap_s: float


# From NeuSight's tables, five machines, whose smallest rows take 50 to 90 us (gemm: torch linear with its
# bias) and 30 to 40 us (bmm). One pair for all: benchmarks/fit_fp32.py prints the error of every row.
HOST_TIME = {"gemm": HostTime(62e-6, 14e-6), "bmm": HostTime(38e-6, 5e-6)}


def eager_seconds(device_s: ArrayLike, host: HostTime) -> NDArray[np.float64]:
    """Seconds between two events around one operator: the longer of host and device, rounded where equal."""
    waited = np.asarray(device_s, dtype=np.float64) + host.gap_s
    return np.asarray((waited**4 + host.floor_s**4) ** 0.25)
