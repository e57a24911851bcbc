"""Fit tensor-core products: one set of constants for all GPUs, three constants a GPU, and own fits.

What all GPUs share is written so that it carries over: overheads in clock cycles, latency in seconds,
L2 in bytes a clock and SM, one set for GPUs whose blocks wait for their tensor cores (mma.sync: Volta
to Ada, GeForce Blackwell) and one for those whose loads and stores run beside them (wgmma, tcgen05).
A GPU adds its floor, its share of the bandwidth and its sustained rate, as a multiple of what its power
limit predicts (hwsearch.gpu.power). A GPU that was not timed takes the mean of the others' three, of the
power limit the median, in which the prediction itself counts as one GPU more.

    python benchmarks/fit_gemm.py --data DIR [--designs] [--write] [--out results/fit_gemm.md]

Own: all constants of a GPU fitted to it, starting from the shared ones, on the (n, k) of other folds than
the one that is judged. Left out: shared and typical constants of the other GPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from gemm_data import Cases, gemm_cases, vidur_gemm_cases
from judging import (
    BEING_FITTED,
    FOLDS,
    coverage,
    equal_weight,
    fold_of,
    interval,
    median_bias,
    median_error,
    p90_error,
)
from numpy.typing import NDArray
from profile_blocks import by_dtype, replace_gemm, shipped_gpus
from scipy.optimize import least_squares
from sources import TIMED_BOARD

from hwsearch.cost.gemm import gemm_seconds
from hwsearch.files import write_whole
from hwsearch.gpu.calibration import Evidence, GemmConstants
from hwsearch.gpu.power import TENSOR_SHARE, halves_fp32_sums, sustained_fraction
from hwsearch.gpu.profile import Gpu
from hwsearch.gpu.profile_file import FIRST_TENSOR_CORES

Vector = NDArray[np.float64]
FIT_ROWS = 1200
# These take the floor, bandwidth and power share of the card that was timed; the A30 is half an A100.
SIBLINGS = {**TIMED_BOARD, "a30": "a100-sxm-80"}
# Large square products on half-rate GeForce over their
# datasheets: 76 of 71, 64 of 59.5, 165 to 179 of 165.2 and 230 of 209.5 TFLOP/s.
HALF_RATE_SHARE = 1.07
HALF_RATE_MEASURED = ("rtx3080", "rtx3090", "rtx4090", "rtx5090")
# A table this small says nothing of the GPU's floor and bandwidth, and little of what all share.
SMALL_TABLE, SMALL_WEIGHT = 1000, 0.2
ASYNCHRONOUS = ((9, 0), (10, 0))

# Shared constants: start, low, high. A fixed one has low == high.
SHARED: dict[str, tuple[float, float, float]] = {
    "block_cycles": (1500, 20, 6000),
    "tile_cycles": (2000, 10, 6000),
    "tile_cycles_asynchronous": (500, 10, 6000),
    "latency_ns": (280, 5, 1000),
    "latency_ns_asynchronous": (100, 5, 600),
    "cached_bytes_per_cycle": (8, 1, 60),
    "split_cycles": (3500, 10, 20000),
    "split_cycles_asynchronous": (3500, 10, 20000),
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
        split_s=shared["split_cycles" + beside] * cycle_s,
        compute_fraction=shared["compute_fraction"],
        sustained_fraction=own["of_power_limit"] * sustained_fraction(gpu, dtype),
        bandwidth_fraction=own["bandwidth_fraction"],
        cached_speedup=max(1.0, cached_rate / cold_rate),
        evidence=evidence,
    )


def predict(cases: Cases, constants: GemmConstants) -> Vector:
    calibration = replace(cases.gpu.calibration, gemm={cases.dtype: constants})
    gpu = replace(cases.gpu, calibration=calibration)
    m, n, k = (cases.frame[c].to_numpy() for c in "mnk")
    return gemm_seconds(gpu, cases.dtype, m, n, k)


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
        return replace(start, **_named(names, x))

    def residuals(x: Vector) -> Vector:
        error = (np.log(predict(sample, constants(x))) - measured) * np.sqrt(1000 / len(measured))
        return np.concatenate([error, 0.15 * (x - first) / spread])

    reach = 3 * spread
    high = first + reach
    # No GPU moves more bytes than its datasheet says.
    high[names.index("bandwidth_fraction")] = 0.0
    return constants(_least_squares(residuals, first, first - reach, high))


def _named(names: Sequence[str], logarithms: Vector) -> dict[str, Any]:
    return dict(zip(names, map(float, np.exp(logarithms)), strict=True))


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


@dataclass(frozen=True)
class Judged:
    """Predicted / measured of one table: on folds held out of its own fit, and with the GPU left out."""

    table: Cases
    own: Vector
    left_out: Vector


def own_ratios(table: Cases, start: GemmConstants) -> Vector:
    """Every row, predicted by a fit that saw no row of its (n, k)."""
    part = fold_of(table.frame["group"].to_numpy())
    ratio = np.empty(len(part))
    for held in range(FOLDS):
        constants = fit_own(table.some(part != held), start)
        rows = table.some(part == held)
        ratio[part == held] = predict(rows, constants) / rows.seconds
    return ratio


def left_out_ratios(table: Cases, tables: Sequence[Cases], held: dict[str, float] | None = None) -> Vector:
    model = fit_shared([t for t in tables if t.gpu.name != table.gpu.name], held)
    return np.asarray(predict(table, model.constants(table.gpu, table.dtype)) / table.seconds)


# What the model is without one of its terms. Sizes are logarithms' origins: 1e-3 cycles is none.
DESIGNS: dict[str, dict[str, float]] = {
    "as chosen": {},
    "no latency of a step": {"latency_ns": 1e-6, "latency_ns_asynchronous": 1e-6},
    "no power limit": {"of_power_limit": 1e3},
    "no L2": {"cached_bytes_per_cycle": 1e-6},
    "no overhead of a tile": {
        "block_cycles": 1e-3,
        "tile_cycles": 1e-3,
        "tile_cycles_asynchronous": 1e-3,
    },
    "split-K costs its bytes alone": {"split_cycles": 1e-3, "split_cycles_asynchronous": 1e-3},
}


def summary(ratio: Vector) -> str:
    return f"{median_error(ratio):.1f} | {p90_error(ratio):.1f} | {median_bias(ratio):+.1f}"


def report(judged: Sequence[Judged], model: GemmModel) -> list[str]:
    lines = [
        "| GPU | dtype | rows | own % | p90 % | bias % | left out % | p90 % | bias % | "
        + " | ".join(PER_GPU)
        + " |",
        "| --- " * (9 + len(PER_GPU)) + "|",
    ]
    for j in judged:
        own = " | ".join(f"{value:.3g}" for value in model.own[j.table.gpu.name].values())
        lines.append(
            f"| {j.table.gpu.name} | {j.table.dtype} | {len(j.own):,} | {summary(j.own)} | "
            f"{summary(j.left_out)} | {own} |"
        )
    means = [float(np.mean([median_error(getattr(j, k)) for j in judged])) for k in ("own", "left_out")]
    typical = " | ".join(f"{value:.3g}" for value in model.typical.values())
    lines.append(f"| mean, typical | | | {means[0]:.1f} | | | {means[1]:.1f} | | | {typical} |")
    shared = ", ".join(f"{name} {value:.4g}" for name, value in model.shared.items())
    held = coverage({j.table.gpu.name: j.left_out for j in judged})
    return [*lines, "", f"Shared by all GPUs: {shared}.", "", held]


def designs(tables: Sequence[Cases]) -> list[str]:
    lines = [
        "| design | " + " | ".join(t.gpu.name for t in tables) + " | mean left out % | all fitted % |",
        "| --- " * (len(tables) + 3) + "|",
    ]
    for name, held in DESIGNS.items():
        errors = [median_error(left_out_ratios(t, tables, held)) for t in tables]
        model = fit_shared(tables, held)
        fitted = [median_error(predict(t, model.constants(t.gpu, t.dtype)) / t.seconds) for t in tables]
        cells = " | ".join(f"{e:.1f}" for e in errors)
        lines.append(f"| {name} | {cells} | {np.mean(errors):.1f} | {np.mean(fitted):.1f} |")
    return lines


def write_blocks(judged: Sequence[Judged], model: GemmModel) -> None:
    """bf16, fp16 and tf32 of every profile of a GPU with tensor cores."""
    mine = {j.table.gpu.name: j for j in judged}
    unseen = float(np.mean([median_error(j.left_out) for j in judged]))
    everywhere = Evidence(
        "transferred",
        "; ".join(dict.fromkeys(f"{j.table.source}, {j.table.dtype}" for j in judged)),
        sum(len(j.own) for j in judged),
        None,
        unseen,
        **interval(np.concatenate([equal_weight(j.left_out) for j in judged])),
        from_gpus=tuple(mine),
        note="floor, bandwidth and share of the power limit typical of the GPUs that were timed",
    )
    for gpu in shipped_gpus():
        if gpu.compute_capability < FIRST_TENSOR_CORES:
            continue
        dtypes = [dtype for dtype in gpu.dense_flops_per_s if dtype != "fp32"]
        blocks = by_dtype({d: _noted(_block(gpu, d, model, mine, everywhere), d) for d in dtypes})
        replace_gemm(gpu.name, blocks)


def _block(
    gpu: Gpu, dtype: str, model: GemmModel, mine: dict[str, Judged], everywhere: Evidence
) -> GemmConstants:
    own = mine.get(gpu.name)
    if own is not None and dtype != "tf32":
        note = "" if dtype == own.table.dtype else f"timed in {own.table.dtype}, which runs at the same rate"
        evidence = Evidence(
            "fitted",
            f"{own.table.source}, {own.table.dtype}",
            len(own.own),
            median_error(own.own),
            median_error(own.left_out),
            **interval(own.own),
            note=note,
        )
        start = model.constants(gpu, own.table.dtype)
        return replace(fit_own(own.table, start), evidence=evidence)
    sibling = gpu.name if own else SIBLINGS.get(gpu.name)
    if sibling is None:
        block = model.constants(gpu, dtype, everywhere)
        return _half_rate(block, gpu, dtype, model) if halves_fp32_sums(gpu, dtype) else block
    note = f"{'' if own else 'same chip, other board: '}floor, bandwidth and power of that GPU"
    evidence = replace(everywhere, from_gpus=(sibling,), note=note)
    return gemm_constants(gpu, dtype, model.shared, model.own[sibling], evidence)


def _noted(block: GemmConstants, dtype: str) -> GemmConstants:
    """No table has tf32, so that errors in 16 bit say nothing of it."""
    if dtype != "tf32":
        return block
    note = f"no tf32 timings: error unknown; {block.evidence.note}"
    return replace(block, evidence=replace(block.evidence, transfer_error_percent=None, note=note))


def _half_rate(block: GemmConstants, gpu: Gpu, dtype: str, model: GemmModel) -> GemmConstants:
    of_clock = sustained_fraction(gpu, dtype) / TENSOR_SHARE
    note = (
        f"half-rate tensor cores: {HALF_RATE_SHARE:.2f} of the datasheet's rate, as 16-bit square products "
        "reach on RTX 3080, 3090, 4090 and 5090 (github.com/zzc0721/torch-performance-test-data)"
    )
    measured = gpu.name in HALF_RATE_MEASURED and dtype != "tf32"
    return replace(
        block,
        compute_fraction=HALF_RATE_SHARE,
        sustained_fraction=model.typical["of_power_limit"] * HALF_RATE_SHARE * min(of_clock, 1.0),
        evidence=replace(block.evidence, kind="anchored" if measured else "transferred", note=note),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--designs", action="store_true", help="leave one out without each term of the model")
    parser.add_argument("--write", action="store_true", help="update the profiles")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    tables = list(gemm_cases(arguments.data))
    model = fit_shared(tables)
    judged = [
        Judged(t, own_ratios(t, model.constants(t.gpu, t.dtype)), left_out_ratios(t, tables)) for t in tables
    ]
    text = "\n".join([*report(judged, model), *(["", *designs(tables)] if arguments.designs else [])]) + "\n"
    for cases in vidur_gemm_cases(arguments.data):
        own = next(j.table for j in judged if j.table.gpu.name == cases.gpu.name)
        constants = fit_own(own, model.constants(own.gpu, own.dtype))
        ratio = predict(replace(cases, dtype=own.dtype), constants) / cases.seconds
        text += (
            f"\nNever fitted, {cases.source}, fp16 layers on {cases.gpu.name}, {len(ratio):,} cases: "
            f"{median_error(ratio):.1f} % (bias {median_bias(ratio):+.1f}).\n"
        )
    print(text)
    if arguments.out:
        write_whole(arguments.out, text)
    if arguments.write:
        write_blocks(judged, model)


if __name__ == "__main__":
    main()
