"""Fit the constants of the attention kernels and print every error.

    python benchmarks/fit_attention.py --data DIR [--write] [--out results/fit_attention.md]

DIR holds the public measurements, a folder for each source. Own error: fitted on two thirds of the sequence
lengths of a GPU, judged on the others, three times. Left out: all other GPUs fitted together, with one rate
per kernel and everything else in common, judged on this GPU; the rate of a kernel that only this GPU was
timed with comes from the TFLOP/s that its authors published. Errors are medians of |predicted / measured - 1|
over every row, though fits see a sample.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from attention_data import AttentionCases, attention_cases
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
from profile_blocks import by_dtype, replace_blocks, shipped_gpus
from scipy.optimize import least_squares
from sources import TIMED_BOARD

from hwsearch.cost.attention import fused_seconds, products_fraction, row_work
from hwsearch.files import write_whole
from hwsearch.gpu.attention_constants import SHARED
from hwsearch.gpu.attention_kernels import best_kernel
from hwsearch.gpu.calibration import AttentionConstants, Evidence
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

Vector = NDArray[np.float64]
FIT_ROWS, JOINT_ROWS = 1500, 400
# Start and bounds of every constant, in the order of AttentionConstants.
BOUNDS: dict[str, tuple[float, float, float]] = {
    "floor_cycles": (11_400, 3_000, 40_000),
    "block_overhead_cycles": (500, 1, 15_000),
    "compute_fraction": (0.8, 0.2, 2.0),
    "exponential_fraction": (2.0, 0.3, 100),
    "wave_rounding": (0.8, 0.05, 1.0),
    "bytes_per_cycle": (12.7, 6, 40),
    "extra_passes": (0.65, 0.01, 3.0),
}
PER_KERNEL = ("block_overhead_cycles", "compute_fraction", "exponential_fraction")
# Forward TFLOP/s that the authors of FA3 (arXiv 2407.08608, H100 SXM5, non-causal, 16k tokens, width 2048;
# read off the chart) and FA4 (arXiv 2603.05451, B200, its best) published, by head size and length.
PUBLISHED = {
    "fa3": {
        64: dict(zip((512, 1024, 2048, 4096, 8192, 16384), (333, 392, 460, 476, 496, 497), strict=True)),
        128: dict(zip((512, 1024, 2048, 4096, 8192, 16384), (467, 565, 625, 638, 646, 648), strict=True)),
    },
    "fa4": {128: {16384: 1609}},
}
PUBLISHED_ON = {"fa3": "h100-sxm", "fa4": "b200"}
PUBLISHED_TOKENS, PUBLISHED_WIDTH = 16384, 2048


@dataclass(frozen=True)
class AttentionFit:
    """One table's own constants, and predicted / measured: own (held-out lengths) and left out."""

    cases: AttentionCases
    constants: AttentionConstants
    own: Vector
    left_out: Vector

    @property
    def own_error(self) -> float:
        return median_error(self.own)

    @property
    def left_out_error(self) -> float:
        return median_error(self.left_out)


@dataclass(frozen=True)
class AttentionFits:
    """All tables, and the constants that all GPUs share, by kernel."""

    fits: Sequence[AttentionFit]
    shared: dict[str, AttentionConstants]

    def of(self, gpu: str, kernel: str) -> AttentionFit | None:
        """The fit of a GPU's own kernel; encoder tables come before causal ones."""
        return next((f for f in self.fits if (f.cases.gpu.name, f.cases.kernel) == (gpu, kernel)), None)


def predict(cases: AttentionCases, constants: AttentionConstants) -> Vector:
    return fused_seconds(cases.gpu, cases.dtype, constants, cases.work, prefill=cases.causal)


def fit(
    tables: Sequence[AttentionCases],
    rows: int,
    held: AttentionConstants | None = None,
    per_kernel: Sequence[str] = PER_KERNEL,
) -> dict[str, AttentionConstants]:
    """Constants by kernel with the least log error; PER_KERNEL differ, the rest is common.

    With `held`, all but the constants in `per_kernel` are taken from there.
    """
    kernels = sorted({cases.kernel for cases in tables})
    free: list[tuple[str, str | None]] = [(n, k) for n in BOUNDS if n in per_kernel for k in kernels]
    free += [(n, None) for n in BOUNDS if n not in per_kernel and held is None]
    start, low, high = np.log(np.array([BOUNDS[name] for name, _ in free])).T
    samples = [cases.sample(rows) for cases in tables]

    def constants(x: Vector, kernel: str) -> AttentionConstants:
        given = {f.name: getattr(held, f.name) for f in fields(held)} if held else {}
        values = {name: float(np.exp(v)) for (name, k), v in zip(free, x, strict=True) if k in (None, kernel)}
        return AttentionConstants(**{**given, **values, "kernel": kernel, "evidence": BEING_FITTED})

    def residuals(x: Vector) -> Vector:
        return np.concatenate([np.log(predict(c, constants(x, c.kernel)) / c.seconds) for c in samples])

    inside = np.clip(start, low + 1e-6, high - 1e-6)
    x = least_squares(residuals, inside, bounds=(low, high), loss="soft_l1", f_scale=0.05, max_nfev=80).x
    return {kernel: constants(x, kernel) for kernel in kernels}


def ratios(cases: AttentionCases, constants: AttentionConstants) -> Vector:
    return np.asarray(predict(cases, constants) / cases.seconds)


def published_cases(kernel: str) -> AttentionCases:
    """The published TFLOP/s of `kernel` as timings."""
    gpu = load_gpu(PUBLISHED_ON[kernel])
    rows = [
        (PUBLISHED_TOKENS // length, length, PUBLISHED_WIDTH // size, size, rate)
        for size, rates in PUBLISHED[kernel].items()
        for length, rate in rates.items()
    ]
    batch, length, heads, size, rate = np.array(rows, dtype=np.int64).T
    work = row_work(gpu, "bf16", kernel, batch, length, heads, size, np.full(len(rows), -1), False)
    seconds = 4 * batch * length**2 * heads * size / (rate * 1e12)
    return AttentionCases(gpu, kernel, False, pd.DataFrame({"seconds": seconds}), work)


def left_out(cases: AttentionCases, tables: Sequence[AttentionCases]) -> AttentionConstants:
    """Constants for this table's kernel without a row of its GPU."""
    others = fit([c for c in tables if c.gpu.name != cases.gpu.name], JOINT_ROWS)
    if cases.kernel in others:
        return others[cases.kernel]
    prior = published_cases(cases.kernel)
    # One published figure settles one constant; a table of them also tells exponentials from products.
    names = ("compute_fraction",) if len(prior.frame) == 1 else ("compute_fraction", "exponential_fraction")
    nearest = others.get("fa3", others["fa2"])
    held = replace(nearest, exponential_fraction=BOUNDS["exponential_fraction"][2])
    return fit([prior], JOINT_ROWS, held, names)[cases.kernel]


def fit_table(cases: AttentionCases, tables: Sequence[AttentionCases]) -> AttentionFit:
    part = fold_of(cases.frame["group"].to_numpy())
    own = np.empty(len(part))
    for fold in range(FOLDS):
        trained = fit([cases.some(part != fold)], FIT_ROWS)[cases.kernel]
        own[part == fold] = ratios(cases.some(part == fold), trained)
    # Triton was timed on one GPU only and has no published prior: nothing predicts it.
    ratio = np.array([np.nan]) if cases.kernel == "triton" else ratios(cases, left_out(cases, tables))
    return AttentionFit(cases, fit([cases], FIT_ROWS)[cases.kernel], own, ratio)


def fit_attention(data: Path) -> AttentionFits:
    tables = attention_cases(data)
    flash = [c for c in tables if c.kernel != "triton"]
    fits = [fit_table(c, flash) for c in tables]
    return AttentionFits(fits, {**fit(flash, JOINT_ROWS), **fit(tables[-1:], FIT_ROWS)})


def attention_block(gpu: Gpu, dtype: str, fits: AttentionFits) -> AttentionConstants:
    """The constants of the kernel that `gpu` runs by default, with their evidence."""
    kernel = best_kernel(gpu, dtype)
    timed = fits.of(gpu.name, kernel) or fits.of(TIMED_BOARD.get(gpu.name, ""), kernel)
    if timed is not None:
        return replace(timed.constants, evidence=timed_evidence(gpu, timed))
    constants = SHARED[kernel]
    if kernel in fits.shared:
        constants = replace(fits.shared[kernel], evidence=constants.evidence)
    if kernel == "efficient" and not _on_tensor_cores(gpu, dtype):
        evidence = noted(constants, "share of SIMT rate assumed")
        return replace(constants, compute_fraction=SIMT_FRACTION, evidence=evidence)
    used = products_fraction(gpu, dtype, constants)
    if used != constants.compute_fraction:
        note = f"a compute_fraction of {used:.2f} is used where fp32 sums halve the tensor rate"
        return replace(constants, evidence=noted(constants, note))
    return constants


def noted(constants: AttentionConstants, note: str) -> Evidence:
    """The evidence with one more note."""
    return replace(constants.evidence, note="; ".join(filter(None, (constants.evidence.note, note))))


def timed_evidence(gpu: Gpu, timed: AttentionFit) -> Evidence:
    cases = timed.cases
    note = "timed causal, head size 128, with the cache writes of a serving engine" if cases.causal else ""
    data, rows = f"{cases.source}, {cases.dtype}", len(cases.frame)
    if cases.gpu.name == gpu.name:
        mine = Evidence("fitted", data, rows, timed.own_error, timed.left_out_error, note=note)
        return replace(mine, **interval(timed.own))
    note = "; ".join(part for part in ("same chip, other board", note) if part)
    there = Evidence("transferred", data, rows, None, timed.left_out_error, (cases.gpu.name,), note)
    return replace(there, **interval(timed.left_out))


# Without tensor cores the exponentials weigh little beside the products. No timings: assumed.
SIMT_FRACTION = 0.6


def _on_tensor_cores(gpu: Gpu, dtype: str) -> bool:
    return dtype != "fp32" and gpu.compute_capability >= (7, 0)


def attention_blocks(gpu: Gpu, fits: AttentionFits) -> dict[str, Any]:
    """The `attention` section of a profile."""
    return by_dtype({dtype: attention_block(gpu, dtype, fits) for dtype in gpu.dense_flops_per_s})


def table(fits: AttentionFits) -> str:
    names = list(BOUNDS)
    head = ["GPU", "kernel", "rows", "own %", "own p90 %", "left out %", "bias %", *names]
    lines = [head, ["---"] * len(head)]
    for f in fits.fits:
        kind = f"{f.cases.kernel}{', prefill' if f.cases.causal else ''}"
        errors = [f"{x:.1f}" for x in (f.own_error, p90_error(f.own), f.left_out_error)]
        values = [f"{getattr(f.constants, n):.3g}" for n in names]
        lines.append(
            [
                f.cases.gpu.name,
                kind,
                f"{len(f.cases.frame):,}",
                *errors,
                f"{median_bias(f.left_out):+.1f}",
                *values,
            ]
        )
    for kernel, constants in fits.shared.items():
        values = [f"{getattr(constants, n):.3g}" for n in names]
        lines.append(["all together", kernel, "", "", "", "", "", *values])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def factors(fits: AttentionFits) -> list[str]:
    """What attention_constants.py holds for GPUs that were not timed."""
    lines = []
    for kernel in ("fa2", "fa3", "fa4", "any"):
        flash = [f for f in fits.fits if f.cases.kernel != "triton"]
        unseen = [f.left_out for f in flash if kernel in (f.cases.kernel, "any")]
        bounds = interval(np.concatenate([equal_weight(ratio) for ratio in unseen]))
        low, high = bounds["low_factor"], bounds["high_factor"]
        lines.append(f"Measured / predicted of {kernel} on a GPU left out, 90 %: {low:.3f} to {high:.3f}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the constants of the attention kernels.")
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--write", action="store_true", help="update the attention blocks of every profile")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    fits = fit_attention(arguments.data)
    encoder = [f for f in fits.fits if not f.cases.causal and f.cases.kernel != "triton"]
    joint = [
        f"{f.cases.gpu.name}{' prefill' if f.cases.causal else ''} "
        f"{median_error(ratios(f.cases, fits.shared[f.cases.kernel])):.1f}"
        for f in fits.fits
    ]
    text = "\n".join(
        [
            "# Constants of the attention kernels",
            "",
            f"{datetime.date.today().isoformat()}, printed by benchmarks/fit_attention.py; "
            "errors are medians in percent.",
            "",
            table(fits),
            "",
            f"Encoder attention, own error, mean over GPUs: {np.mean([f.own_error for f in encoder]):.1f} %.",
            coverage(
                {
                    f"{f.cases.gpu.name} {f.cases.kernel}{' prefill' if f.cases.causal else ''}": f.left_out
                    for f in fits.fits
                    if f.cases.kernel != "triton"
                }
            ),
            *factors(fits),
            f"With the constants that all share (last rows), fitted on a sample of each: {', '.join(joint)}.",
            "",
        ]
    )
    print(text)
    if arguments.write:
        for gpu in shipped_gpus():
            replace_blocks(gpu.name, {"attention": attention_blocks(gpu, fits)})
    if arguments.out:
        write_whole(arguments.out, text)


if __name__ == "__main__":
    main()
