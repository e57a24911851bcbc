"""What eager PyTorch adds to one operator that is timed alone: the host has to launch it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.rounded import rounded_maximum


@dataclass(frozen=True)
class HostTime:
    """`floor_s`: between two calls on the host alone; `gap_s`: between kernels that the device waits for."""

    floor_s: float
    gap_s: float


# From NeuSight's tables, five machines; the smallest rows of torch linear with its bias take 50 to 90 us, of
# the others 26 to 58. One pair an operator for all machines: benchmarks/eager_rows.py prints the error of
# every row. A fused attention kernel has no eager timings: one launch, as bmm.
HOST_TIME = {
    "gemm": HostTime(62e-6, 14e-6),
    "bmm": HostTime(38e-6, 5e-6),
    "attention": HostTime(38e-6, 5e-6),
    "layernorm": HostTime(5e-6, 42e-6),
    "softmax": HostTime(17e-6, 30e-6),
    "gelu": HostTime(29e-6, 18e-6),
    "add": HostTime(23e-6, 18e-6),
}


def eager_seconds(device_s: ArrayLike, host: HostTime) -> NDArray[np.float64]:
    """Seconds between two events around one operator: the longer of host and device, rounded where equal."""
    waited = np.asarray(device_s, dtype=np.float64) + host.gap_s
    return rounded_maximum(waited, np.asarray(host.floor_s))
