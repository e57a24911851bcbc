"""Seconds that bytes take: between an SM and L2 while they stay there, to memory and back beyond."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.gpu.profile import Gpu

# What a kernel may touch before it loses lines that it, or the next run of it, comes back to. Between 0.42
# and 0.9 for the split L2 of A100, H100 and B200 made no difference; the L40S shows its edge here.
USABLE_L2_SHARE = 0.85


def miss_share(footprint: NDArray[np.float64], cache_bytes: float) -> NDArray[np.float64]:
    """Share of the accesses that miss a cache of `cache_bytes` with `footprint` bytes in use.

    x^3 / (1 + x^3), x the footprint over the cache: powers 2 to 6 fit alike.
    """
    ratio = footprint / cache_bytes
    cube = ratio * ratio * ratio
    return np.asarray(cube / (1 + cube))


def traffic_seconds(
    gpu: Gpu, moved: NDArray[np.float64], footprint: NDArray[np.float64], bytes_per_cycle: float
) -> NDArray[np.float64]:
    """Time to move `moved` bytes of a kernel that touches `footprint` bytes.

    Each SM moves `bytes_per_cycle` to and from L2; what misses L2 goes at the slower of that and the
    sustained memory bandwidth.
    """
    l2_s = 1 / (gpu.sms * gpu.boost_hz * bytes_per_cycle)
    memory_s = 1 / (gpu.bandwidth_bytes_per_s * gpu.calibration.stream.bandwidth_fraction)
    misses = miss_share(footprint, USABLE_L2_SHARE * gpu.l2_bytes)
    return np.asarray(moved * (l2_s + misses * max(0.0, memory_s - l2_s)))
