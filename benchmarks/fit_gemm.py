"""Tensor-core products: one set of constants for all GPUs, three constants a GPU, and own fits.

What all GPUs share is written so that it carries over: overheads in clock cycles, latency in seconds,
L2 in bytes a clock and SM, one set for GPUs whose blocks wait for their tensor cores (mma.sync: Volta
to Ada, GeForce Blackwell) and one for those whose loads and stores run beside them (wgmma, tcgen05).
A GPU adds its floor, its share of the bandwidth and its sustained rate, as a multiple of what its power
limit predicts (hwsearch.gpu.power). A GPU that was not timed takes the mean of the others' three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from fit_data import Cases
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hwsearch.cost.gemm import gemm_seconds
from hwsearch.gpu.calibration import Evidence, GemmConstants
from hwsearch.gpu.power import sustained_fraction
from hwsearch.gpu.profile import Gpu

Vector = NDArray[np.float64]
FIT_ROWS = 1200
# A table this small says nothing of the GPU's floor and bandwidth, and little of what all share.
SMALL_TABLE, SMALL_WEIGHT = 1000, 0.2
ASYNCHRONOUS = ((9, 0), (10, 0))
BEING_FITTED = Evidence("fitted", "being fitted", 0)

# Shared constants: start, low, high. A fixed one has low == high.
SHARED: dict[str, tuple[float, float, float]] = {
    "block_cycles": (1500, 20, 6000),
    "tile_cycles": (2000, 10, 6000),
    "tile_cycles_asynchronous": (500, 10, 6000),
    "latency_ns": (280, 5, 1000),
    "latency_ns_asynchronous": (100, 5, 600),
    "cached_bytes_per_cycle": (8, 1, 60),
    "split_cycles": (3500, 10, 20000),
    "compute_fraction": (0.9, 0.6, 1.05),
}
# What one GPU adds: start, low, high, and how far GPUs are expected to lie apart (of the logarithm).
PER_GPU: dict[str, tuple[float, float, float, float]] = {
    "floor_cycles": (4000, 500, 20000, 0.1),
    "bandwidth_fraction": (0.76, 0.4, 1.0, 0.1),
    "of_power_limit": (1.0, 0.4, 1.6, 0.15),
}
# Most bytes a clock and SM that an A100, whose products show no gain from L2, takes from memory (9.6), is
# what L2 is expected to give at least where no table shows it; the spread is that of the logarithm.
CACHED_PRIOR = (9.6, 0.3)


@dataclass(frozen=True)
class GemmModel:
    """Constants by name: `shared` for all GPUs, `own` by GPU, `typical` for one that was not timed."""

    shared: dict[str, float]
    own: dict[str, dict[str, float]]
    typical: dict[str, float]

    def constants(self, gpu: Gpu, dtype: str, evidence: Evidence = BEING_FITTED) -> GemmConstants:
        """Of a GPU that was timed, or of any other."""
        return gemm_constants(gpu, dtype, self.shared, self.own.get(gpu.name, self.typical), evidence)


def gemm_constants(
    gpu: Gpu, dtype: str, shared: dict[str, float], own: dict[str, float], evidence: Evidence
) -> GemmConstants:
    """What the cost model takes, in seconds and shares of this GPU's datasheet rates."""
    cycle_s = 1 / gpu.boost_hz
    beside = "_asynchronous" if gpu.compute_capability in ASYNCHRONOUS else ""
    cold_rate = gpu.bandwidth_bytes_per_s * own["bandwidth_fraction"]
    cached_rate = shared["cached_bytes_per_cycle"] * gpu.sms * gpu.boost_hz
    return GemmConstants(
        floor_s=own["floor_cycles"] * cycle_s,
        block_overhead_s=0.0 if beside else shared["block_cycles"] * cycle_s,
        tile_overhead_s=shared["tile_cycles" + beside] * cycle_s,
        step_latency_s=shared["latency_ns" + beside] * 1e-9,
        split_s=shared["split_cycles"] * cycle_s,
        compute_fraction=shared["compute_fraction"],
        sustained_fraction=own["of_power_limit"] * sustained_fraction(gpu, dtype),
        bandwidth_fraction=own["bandwidth_fraction"],
        cached_speedup=max(1.0, cached_rate / cold_rate),
        evidence=evidence,
    )


def predict(cases: Cases, constants: GemmConstants) -> Vector:
    calibration = replace(cases.gpu.calibration, gemm={cases.dtype: constants})
    gpu = replace(cases.gpu, calibration=calibration)
    return gemm_seconds(gpu, cases.dtype, *(cases.frame[c].to_numpy() for c in "mnk"))


def weight(cases: Cases) -> float:
    return SMALL_WEIGHT if len(cases.frame) < SMALL_TABLE else 1.0


def fit_shared(tables: Sequence[Cases], held: dict[str, float] | None = None) -> GemmModel:
    """Fit all GPUs of `tables` together; `held` keeps shared or per-GPU constants at a value (designs)."""
    held = held or {}
    samples = [t.sample(FIT_ROWS) for t in tables]
    measured = [np.log(s.seconds) for s in samples]
    large = np.array([weight(t) == 1.0 for t in tables])
    names = list(SHARED) + [f"{i} {name}" for i in range(len(tables)) for name in PER_GPU]
    limits = [*SHARED.values(), *[limit[:3] for _ in tables for limit in PER_GPU.values()]]
    fixed = np.array([name.split(" ")[-1] in held for name in names])
    start, low, high = np.log(np.array(limits)).T
    for i, name in enumerate(names):
        if fixed[i]:
            start[i] = np.log(held[name.split(" ")[-1]])
    spread = np.array([limit[3] for limit in PER_GPU.values()])
    cached = list(SHARED).index("cached_bytes_per_cycle")

    def typical_of(own: Vector) -> Vector:
        typical = own[large].mean(axis=0)
        # The power limit's own prediction counts as one GPU more; one badly cooled card shall not decide.
        typical[2] = np.median(np.append(own[large, 2], 0.0))
        return np.asarray(typical)

    def unpack(free: Vector) -> tuple[Vector, Vector]:
        full = start.copy()
        full[~fixed] = free
        return full[: len(SHARED)], full[len(SHARED) :].reshape(len(tables), len(PER_GPU))

    def residuals(free: Vector) -> Vector:
        shared, own = unpack(free)
        constants = dict(zip(SHARED, np.exp(shared), strict=True))
        parts = []
        for table, sample, log_seconds, row in zip(tables, samples, measured, own, strict=True):
            mine = dict(zip(PER_GPU, np.exp(row), strict=True))
            block = gemm_constants(table.gpu, table.dtype, constants, mine, BEING_FITTED)
            scale = np.sqrt(weight(table) * 1000 / len(log_seconds))
            parts.append((np.log(predict(sample, block)) - log_seconds) * scale)
        apart = (own - typical_of(own)) / spread
        prior = np.append(apart.ravel(), (shared[cached] - np.log(CACHED_PRIOR[0])) / CACHED_PRIOR[1])
        return np.concatenate([*parts, 0.15 * prior])

    found = _least_squares(residuals, start[~fixed], low[~fixed], high[~fixed])
    shared, own = unpack(found)
    per_gpu = [dict(zip(PER_GPU, map(float, np.exp(row)), strict=True)) for row in own]
    typical = np.exp(typical_of(own))
    return GemmModel(
        dict(zip(SHARED, map(float, np.exp(shared)), strict=True)),
        {t.gpu.name: mine for t, mine in zip(tables, per_gpu, strict=True)},
        dict(zip(PER_GPU, map(float, typical), strict=True)),
    )


def fit_own(table: Cases, start: GemmConstants) -> GemmConstants:
    """All constants of one GPU; they leave `start` only as far as the rows pull them."""
    sample = table.sample(FIT_ROWS)
    measured = np.log(sample.seconds)
    names = [f.name for f in fields(GemmConstants) if f.name != "evidence" and getattr(start, f.name) > 0]
    first = np.log([getattr(start, name) for name in names])
    spread = 0.5

    def constants(x: Vector) -> GemmConstants:
        return replace(start, **dict(zip(names, map(float, np.exp(x)), strict=True)))

    def residuals(x: Vector) -> Vector:
        error = (np.log(predict(sample, constants(x))) - measured) * np.sqrt(1000 / len(measured))
        return np.concatenate([error, 0.15 * (x - first) / spread])

    reach = 3 * spread
    high = first + reach
    # No GPU moves more bytes than its datasheet says.
    high[names.index("bandwidth_fraction")] = 0.0
    return constants(_least_squares(residuals, first, first - reach, high))


def _least_squares(residuals: Callable[[Vector], Vector], start: Vector, low: Vector, high: Vector) -> Vector:
    found = least_squares(
        residuals,
        np.clip(start, low + 1e-6, high - 1e-6),
        bounds=(low, high),
        loss="soft_l1",
        f_scale=0.05,
        diff_step=0.02,
        max_nfev=50,
    )
    return np.asarray(found.x)
