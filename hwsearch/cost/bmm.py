"""Seconds of a batched matrix product."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.gemm import gemm_seconds
from hwsearch.gpu.profile import Gpu


def bmm_seconds(
    gpu: Gpu, dtype: str, b: ArrayLike, m: ArrayLike, n: ArrayLike, k: ArrayLike
) -> NDArray[np.float64]:
    """Device time of y[b, m, n] = x[b, m, k] w[b, k, n], without the CPU's launch.

    Priced as one product of b m rows: the tiles and the multiplications are the same where m fills whole
    tiles; b different right-hand sides instead of one are not counted.
    """
    return gemm_seconds(gpu, dtype, np.asarray(b) * np.asarray(m), n, k)
