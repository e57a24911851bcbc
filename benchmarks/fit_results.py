"""What a fit gives: constants and errors per GPU, and all fits together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fit_attention import AttentionFits
from fit_data import Cases
from fit_stream import StreamFits
from numpy.typing import NDArray

from hwsearch.gpu.calibration import Evidence, GemmConstants

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Operator:
    """How to price one operator from a vector of constants; `start` and `bounds` in the order of fields."""

    name: str
    start: tuple[float, ...]
    bounds: tuple[tuple[float, float], ...]
    predict: Callable[[Cases, Vector], Vector]


@dataclass(frozen=True)
class Fit:
    """One GPU's constants and errors in percent; `bias`: median of predicted / measured - 1, left out."""

    cases: Cases
    vector: Vector
    own_error: float
    own_p90: float
    left_out_error: float
    bias: float


@dataclass(frozen=True)
class Results:
    """Fits by GPU and, as `*_joint`, of all GPUs together; attention and streams as their own files give."""

    gemm: Sequence[Fit]
    gemm_joint: Vector
    gemm_fp32: Sequence[Fit]
    gemm_fp32_joint: Vector
    attention: AttentionFits
    stream: StreamFits


def gemm_constants(v: Vector, evidence: Evidence) -> GemmConstants:
    floor, overhead, compute, kappa, bandwidth = map(float, v)
    return GemmConstants(floor, overhead, compute, kappa, bandwidth, evidence)
