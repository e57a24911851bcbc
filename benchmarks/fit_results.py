"""What a fit gives: constants and errors per GPU, and all fits together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fit_data import Cases
from numpy.typing import NDArray

from hwsearch.gpu.calibration import AttentionConstants, Evidence, GemmConstants, StreamConstants

# Score tiles of the flash kernels that were timed: FA2 (L40S, A100), FA3 (H100), FA4 (B200).
TILES = {"l40s": (128, 64), "a100-sxm-80": (128, 64), "h100-sxm": (128, 128), "b200": (256, 128)}
CARDS_WITH_SAME_KERNEL = ("l40s", "a100-sxm-80")
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
    """Fits by GPU and, as `*_joint`, of all GPUs together; `adds` are the fp16 streams, `stream` the fp32."""

    gemm: Sequence[Fit]
    gemm_joint: Vector
    gemm_fp32: Sequence[Fit]
    gemm_fp32_joint: Vector
    attention: Sequence[Fit]
    attention_joint: Vector
    adds: Sequence[Fit]
    stream: Sequence[Fit]
    stream_joint: Vector


def gemm_constants(v: Vector, evidence: Evidence) -> GemmConstants:
    floor, overhead, compute, kappa, bandwidth = map(float, v)
    return GemmConstants(floor, overhead, compute, kappa, bandwidth, evidence)


def attention_constants(v: Vector, tile: tuple[int, int], evidence: Evidence) -> AttentionConstants:
    floor, overhead, compute, exponential, bandwidth = map(float, v)
    return AttentionConstants(*tile, floor, overhead, compute, exponential, bandwidth, evidence)


def stream_constants(v: Vector, evidence: Evidence) -> StreamConstants:
    floor, bandwidth, norm, cached = map(float, v)
    return StreamConstants(floor, bandwidth, norm, cached, evidence)
