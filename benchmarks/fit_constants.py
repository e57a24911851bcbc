"""Fit the cost model's constants to public measurements, print every error, and write the profiles.

    python benchmarks/fit_constants.py --data DIR [--write] [--out results/fit_constants.md]

DIR holds the measurements as CSV, one folder per source (aiconfigurator, neusight, deepbench, vidur).
Own error: fitted on two thirds of the (n, k) groups of a GPU, judged on the others, three times.
Left out: fitted on all other GPUs together, judged on this one. All errors are medians of
|predicted / measured - 1| over every row, though fits see a sample. The form of the GEMM model was
chosen on these left-out errors among seven (a faster rate within L2, per-GPU L2 rates, partial-sum
traffic, a rounded maximum, several blocks per SM), so they are a little optimistic.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy
from fit_attention import fit_attention
from fit_attention import table as attention_table
from fit_data import Cases, gemm_cases, vidur_gemm_cases
from fit_results import Fit, Operator, Results, Vector, gemm_constants
from fit_stream import fit_streams
from fit_stream import table as stream_table
from scipy.optimize import minimize
from write_profiles import write_calibrations

from hwsearch.cost.gemm import gemm_seconds
from hwsearch.files import write_whole
from hwsearch.gpu.calibration import Evidence, GemmConstants
from hwsearch.gpu.profile import Gpu

FIT_ROWS = 1500
FOLDS = 3
NO_EVIDENCE = Evidence("fitted", "being fitted", 0)


def with_gemm(gpu: Gpu, dtype: str, constants: GemmConstants) -> Gpu:
    return replace(gpu, calibration=replace(gpu.calibration, gemm={dtype: constants}))


def predict_gemm(cases: Cases, v: Vector) -> Vector:
    frame = cases.frame
    gpu = with_gemm(cases.gpu, cases.dtype, gemm_constants(v, NO_EVIDENCE))
    return gemm_seconds(gpu, cases.dtype, *(frame[c].to_numpy() for c in "mnk"))


US = 1e-6
GEMM = Operator(
    "gemm",
    (2 * US, 0.5 * US, 0.9, 20, 0.8),
    ((0.5 * US, 10 * US), (0.01 * US, 10 * US), (0.2, 1.1), (0.1, 80), (0.3, 1.0)),
    predict_gemm,
)
# fp32 rows lie above 0.3 ms: they show neither the floor nor, being compute-bound, the bandwidth, so both
# are held near where tensor-core GEMMs put them.
GEMM_FP32 = replace(
    GEMM,
    start=(2.5 * US, 0.5 * US, 0.8, 10, 0.75),
    bounds=((2.5 * US, 2.5 * US), (0.01 * US, 3 * US), (0.2, 1.1), (0.1, 40), (0.75, 0.75)),
)


def fit(operator: Operator, cases: Sequence[Cases]) -> Vector:
    """Constants with the least mean |log(predicted / measured)|, every GPU with equal weight."""
    samples = [(c, np.log(c.seconds)) for c in (c.sample(FIT_ROWS) for c in cases)]
    low, high = np.log(np.array(operator.bounds)).T
    start = np.log(np.array(operator.start))
    free = low < high

    def constants(x: Vector) -> Vector:
        full = start.copy()
        full[free] = np.clip(x, low[free], high[free])
        return np.asarray(np.exp(full))

    def loss(x: Vector) -> float:
        v = constants(x)
        # Outside the bounds constants() is flat: a slope leads the simplex back.
        outside = np.abs(x - np.clip(x, low[free], high[free])).sum()
        error = np.mean([np.abs(np.log(operator.predict(c, v)) - y).mean() for c, y in samples])
        return float(error + 0.1 * outside)

    options = {"maxfev": 900, "xatol": 3e-3, "fatol": 1e-5}
    x = start[free]
    for _ in range(3):  # a restart frees a simplex that has collapsed onto a ridge
        simplex = np.vstack([x, x + 0.3 * np.eye(len(x))])
        x = minimize(loss, x, method="Nelder-Mead", options={**options, "initial_simplex": simplex}).x
    return constants(x)


def ratios(operator: Operator, cases: Cases, v: Vector) -> Vector:
    return np.asarray(operator.predict(cases, v) / cases.seconds)


def median_error(ratio: Vector) -> float:
    return float(100 * np.median(np.abs(ratio - 1)))


def fit_all(operator: Operator, tables: Sequence[Cases], alike: Callable[[Cases, Cases], bool]) -> list[Fit]:
    """Fit every GPU alone, and predict it from all others that `alike(it, other)` admits."""
    fits = []
    for cases in tables:
        fold = np.random.default_rng(0).permutation(int(cases.frame["group"].max()) + 1) % FOLDS
        part = fold[cases.frame["group"].to_numpy()]
        held_out = [
            ratios(operator, cases.some(part == f), fit(operator, [cases.some(part != f)]))
            for f in range(FOLDS)
        ]
        own = np.concatenate(held_out)
        others = [c for c in tables if c.gpu.name != cases.gpu.name and alike(cases, c)]
        left_out = ratios(operator, cases, fit(operator, others))
        fits.append(
            Fit(
                cases,
                fit(operator, [cases]),
                median_error(own),
                float(100 * np.quantile(np.abs(own - 1), 0.9)),
                median_error(left_out),
                float(100 * (np.median(left_out) - 1)),
            )
        )
    return fits


def siblings(a: Cases, b: Cases) -> bool:
    """Two cards with one chip: predicting one from the other says nothing about unseen GPUs."""
    return a.gpu.name.split("-")[0] == b.gpu.name.split("-")[0]


def at_bound(value: float, low: float, high: float) -> str:
    """A mark for a constant that was held, or that the data did not pull away from a bound of the fit."""
    if low == high:
        return " held"
    return " !" if value < 1.01 * low or value > 0.99 * high else ""


def table(operator: Operator, fits: Sequence[Fit], constants: Sequence[str]) -> str:
    head = ["GPU", "dtype", "rows", "own %", "own p90 %", "left out %", "bias %", *constants]
    rows = [
        [f.cases.gpu.name, f.cases.dtype, f"{len(f.cases.frame):,}"]
        + [f"{x:.1f}" for x in (f.own_error, f.own_p90, f.left_out_error)]
        + [f"{f.bias:+.1f}"]
        + [
            (f"{v * 1e6:.2f} us" if name.endswith("_s") else f"{v:.3g}") + at_bound(v, *bounds)
            for name, v, bounds in zip(constants, f.vector, operator.bounds, strict=True)
        ]
        for f in fits
    ]
    mean = ["mean", "", ""] + [
        f"{np.mean([getattr(f, a) for f in fits]):.1f}" for a in ("own_error", "own_p90", "left_out_error")
    ]
    lines = [
        "| " + " | ".join(r) + " |"
        for r in (head, ["---"] * len(head), *rows, [*mean, *[""] * (len(head) - 6)])
    ]
    return "\n".join([f"### {operator.name}", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--write", action="store_true", help="update the calibration of every profile")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    started = time.perf_counter()
    tables = list(gemm_cases(arguments.data))
    tensor = [c for c in tables if c.dtype != "fp32"]
    fp32 = [c for c in tables if c.dtype == "fp32"]
    parts: list[str] = []

    def show(text: str) -> None:
        print(text, flush=True)
        parts.append(text)

    today = datetime.date.today().isoformat()
    show(
        f"# Constants of the cost model\n\n{today}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, scipy {scipy.__version__}. Printed by benchmarks/fit_constants.py; "
        "errors are medians in percent.\n"
        "A constant marked ! sits on a bound of the fit: the data do not determine it.\n"
    )
    names = list(GemmConstants.__dataclass_fields__)[:-1]
    gemm = fit_all(GEMM, tensor, lambda a, b: True)
    show(table(replace(GEMM, name="gemm, bf16 and fp16"), gemm, names))
    joint = fit(GEMM, tensor)
    show("All of them together: " + describe(names, joint) + "\n")
    show(vidur_check(arguments.data, gemm))
    simt = fit_all(GEMM_FP32, fp32, lambda a, b: not siblings(a, b))
    show(table(replace(GEMM_FP32, name="gemm, fp32 (rows above 0.3 ms)"), simt, names))
    joint_fp32 = fit(GEMM_FP32, fp32)
    show("All of them together: " + describe(names, joint_fp32) + "\n")
    attention = fit_attention(arguments.data)
    show(f"### attention\n\n{attention_table(attention)}\n")
    streams = fit_streams(arguments.data)
    show(f"### norms, softmax, activations, adds\n\n{stream_table(streams)}\n")
    results = Results(
        gemm=gemm,
        gemm_joint=joint,
        gemm_fp32=simt,
        gemm_fp32_joint=joint_fp32,
        attention=attention,
        stream=streams,
    )
    show(f"\n{time.perf_counter() - started:.0f} s on one core.")
    if arguments.write:
        write_calibrations(results)
    if arguments.out:
        write_whole(arguments.out, "\n".join(parts) + "\n")


def describe(names: Sequence[str], v: Vector) -> str:
    return ", ".join(
        f"{n.removesuffix('_s')} {x * 1e6:.2f} us" if n.endswith("_s") else f"{n} {x:.3g}"
        for n, x in zip(names, v, strict=True)
    )


def vidur_check(data: Path, gemm: Sequence[Fit]) -> str:
    vectors = {f.cases.gpu.name: f.vector for f in gemm}
    lines = []
    for cases in vidur_gemm_cases(data):
        ratio = ratios(GEMM, cases, vectors[cases.gpu.name])
        large = cases.frame["m"].to_numpy() >= 512
        lines.append(
            f"Not fitted, {cases.source}, fp16 layers on {cases.gpu.name}, {len(cases.frame):,} cases: "
            f"{median_error(ratio):.1f} % (bias {100 * (np.median(ratio) - 1):+.1f}); from 512 tokens "
            f"{median_error(ratio[large]):.1f} % (bias {100 * (np.median(ratio[large]) - 1):+.1f})."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
