"""Fit the constants of norms, softmax, activations and adds, and print every error.

    python benchmarks/fit_stream.py --data DIR [--write] [--out results/fit_stream.md]

DIR holds the public measurements, a folder for each source. Own error: constants of a GPU fitted on two
thirds of its widths, judged on the others, three times. Left out: everything fitted on the other chips,
judged on this GPU; A100 boards and V100 boards are one chip. NeuSight's rows are event timings of eager
PyTorch: a launch per operator, fitted along with the rest and in no profile, is added to their prediction.
Errors are medians of |predicted / measured - 1| over every row above 0.12 ms (NeuSight) or every row (Vidur).
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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
from profile_blocks import replace_blocks, shipped_gpus
from scipy.optimize import least_squares
from sources import chip
from stream_data import KERNELS as KERNEL_OF
from stream_data import PASSES, StreamCases, stream_cases

from hwsearch.cost import stream
from hwsearch.cost.stream import Kernel, kernel_seconds
from hwsearch.files import write_whole
from hwsearch.gpu.calibration import Evidence, StreamConstants
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.gpu.profile_text import plain

Vector = NDArray[np.float64]
Values = Mapping[str, float]
JOINT_ROWS, OWN_ROWS = 150, 600
US = 1e-6
# Start and bounds. `fraction` and `fraction_old` are of the memory bandwidth; the launches are NeuSight's.
SHARED = {
    "fraction": (0.9, 0.7, 0.98),
    "fraction_old": (0.755, 0.6, 0.9),
    "bytes_per_cycle": (18, 8, 40),
    "floor_s": (1.4 * US, 0.3 * US, 5 * US),
    "launch_add": (20 * US, 1 * US, 60 * US),
    "launch_gelu": (20 * US, 1 * US, 60 * US),
    "launch_layernorm": (55 * US, 1 * US, 90 * US),
    "launch_softmax": (45 * US, 1 * US, 80 * US),
    "gelu_elements_per_cycle": (2.5, 1, 20),
    "layernorm_elements_per_cycle": (1.8, 0.5, 20),
    "layernorm_row_cycles": (7500, 100, 40_000),
    "layernorm_step_cycles": (570, 1, 8000),
    "softmax_elements_per_cycle": (6.6, 0.5, 20),
    "softmax_step_cycles": (3400, 1, 9000),
}
OWN = {
    **{name: SHARED[name] for name in SHARED if name.startswith(("fraction", "launch"))},
    "gelu_speed": (1.0, 0.3, 3.0),
    "norm_speed": (1.0, 0.3, 3.0),
    "softmax_speed": (1.0, 0.3, 3.0),
}
# Timed on the device, not by events: the floor and the caches show.
OWN_DEVICE = {**OWN, "floor_s": SHARED["floor_s"], "bytes_per_cycle": SHARED["bytes_per_cycle"]}


def older_memory(gpu: Gpu) -> bool:
    """Pascal and Turing: the P100 and the T4 reach three quarters of their bandwidth, Volta nine tenths."""
    return gpu.compute_capability < (7, 0) or gpu.compute_capability == (7, 5)


@dataclass(frozen=True)
class StreamFit:
    """Constants of one GPU, errors in percent by operator (own, own p90, left out, bias), and predicted /
    measured of every operator, own and left out."""

    gpu: Gpu
    tables: Sequence[StreamCases]
    constants: StreamConstants
    errors: dict[str, tuple[float, float, float, float]]
    own: dict[str, Vector]
    left_out: dict[str, Vector]


@dataclass(frozen=True)
class StreamFits:
    fits: Sequence[StreamFit]
    shared: dict[str, float]

    def of(self, gpu: str) -> StreamFit | None:
        return next((f for f in self.fits if f.gpu.name == gpu), None)

    def mean(self, index: int) -> float:
        return float(np.mean([e[index] for f in self.fits for e in f.errors.values()]))


def constants_from(gpu: Gpu, v: Values, evidence: Evidence) -> StreamConstants:
    return StreamConstants(
        v["floor_s"],
        v["fraction_old" if older_memory(gpu) else "fraction"],
        v["bytes_per_cycle"],
        v.get("gelu_speed", 1.0),
        v.get("norm_speed", 1.0),
        v.get("softmax_speed", 1.0),
        evidence,
    )


def kernel_from(operator: str, v: Values) -> Kernel:
    shipped = stream.KERNELS[KERNEL_OF[operator]]
    names = ("elements_per_cycle", "row_cycles", "step_cycles")
    return replace(shipped, **{n: v[f"{operator}_{n}"] for n in names if f"{operator}_{n}" in v})


def predict(cases: StreamCases, v: Values) -> Vector:
    constants = constants_from(cases.gpu, v, BEING_FITTED)
    gpu = replace(cases.gpu, calibration=replace(cases.gpu.calibration, stream=constants))
    rows, columns = (cases.frame[c].to_numpy(dtype=np.float64) for c in ("rows", "cols"))
    size = BYTES_PER_ELEMENT[cases.dtype]
    name, kernel = KERNEL_OF[cases.operator], kernel_from(cases.operator, v)
    seconds = kernel_seconds(gpu, size, rows, columns, name, kernel, PASSES[cases.operator])
    return seconds + (v[f"launch_{cases.operator}"] if cases.eager else 0.0)


def fit(
    tables: Sequence[StreamCases], bounds: Mapping[str, tuple[float, float, float]], held: Values, rows: int
) -> dict[str, float]:
    """`held`, with the names in `bounds` replaced by what these tables say; every table weighs the same."""
    free = [name for name in bounds if _is_seen(name, tables)]
    start, low, high = np.log(np.array([bounds[name] for name in free])).T
    samples = [cases.sample(rows) for cases in tables]

    def values(x: Vector) -> dict[str, float]:
        return {**held, **{name: float(np.exp(v)) for name, v in zip(free, x, strict=True)}}

    def residuals(x: Vector) -> Vector:
        v = values(x)
        return np.concatenate([np.log(predict(c, v) / c.seconds) / np.sqrt(len(c.frame)) for c in samples])

    inside = np.clip(start, low + 1e-6, high - 1e-6)
    scale = 0.05 / np.sqrt(rows)
    found = least_squares(residuals, inside, bounds=(low, high), loss="soft_l1", f_scale=scale, max_nfev=60)
    return values(found.x)


def _is_seen(name: str, tables: Sequence[StreamCases]) -> bool:
    operators = {c.operator for c in tables}
    if name.startswith("launch_"):
        return name.removeprefix("launch_") in {c.operator for c in tables if c.eager}
    if name.startswith("fraction"):
        return (name == "fraction_old") in {older_memory(c.gpu) for c in tables}
    operator = {"norm": "layernorm"}.get(name.split("_")[0], name.split("_")[0])
    return operator in operators if operator in KERNEL_OF else True


def starts(bounds: Mapping[str, tuple[float, float, float]]) -> dict[str, float]:
    return {name: start for name, (start, _, _) in bounds.items()}


def ratios(cases: StreamCases, v: Values) -> Vector:
    return np.asarray(predict(cases, v) / cases.seconds)


def fit_gpu(gpu: Gpu, every: Sequence[StreamCases], shared: Values) -> StreamFit:
    tables = [c for c in every if c.gpu.name == gpu.name]
    bounds = OWN if tables[0].eager else OWN_DEVICE
    others = [c for c in every if chip(c.gpu.name) != chip(gpu.name)]
    left_out = fit(others, SHARED, starts(SHARED), JOINT_ROWS)
    own: dict[str, list[Vector]] = {c.operator: [] for c in tables}
    for fold in range(FOLDS):
        kept = [c.some(_fold(c) != fold) for c in tables]
        v = fit(kept, bounds, shared, OWN_ROWS)
        for c in tables:
            own[c.operator].append(ratios(c.some(_fold(c) == fold), v))
    errors = {}
    mine_of = {operator: np.concatenate(parts) for operator, parts in own.items()}
    unseen_of = {c.operator: ratios(c, left_out) for c in tables}
    for c in tables:
        mine, unseen = mine_of[c.operator], unseen_of[c.operator]
        errors[c.operator] = (
            median_error(mine), p90_error(mine), median_error(unseen), median_bias(unseen)
        )  # fmt: skip
    values = fit(tables, bounds, shared, OWN_ROWS)
    operators = ", ".join(c.operator for c in tables)
    note = "event timings of eager PyTorch: floor_us and bytes_per_cycle from the A100 and the H100 of Vidur"
    evidence = Evidence(
        "fitted",
        f"{tables[0].source}, {operators}, {tables[0].dtype}",
        sum(len(c.frame) for c in tables),
        float(np.mean([e[0] for e in errors.values()])),
        float(np.mean([e[2] for e in errors.values()])),
        note=note if tables[0].eager else "",
        **interval(np.concatenate([equal_weight(ratio) for ratio in mine_of.values()])),
    )
    return StreamFit(gpu, tables, constants_from(gpu, values, evidence), errors, mine_of, unseen_of)


def _fold(cases: StreamCases) -> NDArray[np.int64]:
    return fold_of(cases.frame["group"].to_numpy())


def fit_streams(data: Path) -> StreamFits:
    every = stream_cases(data)
    shared = fit(every, SHARED, starts(SHARED), JOINT_ROWS)
    gpus = {c.gpu.name: c.gpu for c in every}
    return StreamFits([fit_gpu(gpu, every, shared) for gpu in gpus.values()], shared)


def stream_block(gpu: Gpu, fits: StreamFits) -> StreamConstants:
    """The stream constants of one GPU, with their evidence."""
    own = fits.of(gpu.name)
    if own is not None:
        return own.constants
    names = tuple(f.gpu.name for f in fits.fits)
    rows = sum(len(c.frame) for f in fits.fits for c in f.tables)
    sources = sorted({c.source for f in fits.fits for c in f.tables})
    note = "one set of constants for all GPUs" + (
        "; bandwidth_fraction of P100 and T4" if older_memory(gpu) else ""
    )
    evidence = Evidence("transferred", ", ".join(sources), rows, None, fits.mean(2), names, note)
    unseen = [equal_weight(ratio) for f in fits.fits for ratio in f.left_out.values()]
    evidence = replace(evidence, **interval(np.concatenate(unseen)))
    return constants_from(gpu, fits.shared, evidence)


def table(fits: StreamFits) -> str:
    head = ["GPU", "operator", "dtype", "rows", "own %", "own p90 %", "left out %", "bias %"]
    lines = [head, ["---"] * len(head)]
    for f in fits.fits:
        for c in f.tables:
            *errors, bias = f.errors[c.operator]
            numbers = [f"{e:.1f}" for e in errors]
            lines.append([f.gpu.name, c.operator, c.dtype, f"{len(c.frame):,}", *numbers, f"{bias:+.1f}"])
    lines.append(["mean", "", "", "", *(f"{fits.mean(i):.1f}" for i in range(3)), ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the constants of norms, softmax, activations and adds.")
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--write", action="store_true", help="update the stream block of every profile")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    fits = fit_streams(arguments.data)
    constants = [
        f"- {f.gpu.name}: " + ", ".join(f"{k} {v}" for k, v in plain(f.constants).items() if k != "evidence")
        for f in fits.fits
    ]
    shared = ", ".join(
        f"{n.removesuffix('_s')}_us {v / US:.3g}"
        if n.endswith("_s") or n.startswith("launch")
        else f"{n} {v:.3g}"
        for n, v in fits.shared.items()
    )
    text = "\n".join(
        [
            "# Constants of norms, softmax, activations and adds",
            "",
            f"{datetime.date.today().isoformat()}, printed by benchmarks/fit_stream.py; errors are medians "
            "in percent.",
            "",
            table(fits),
            "",
            f"All together: {shared}.",
            "",
            coverage({f"{f.gpu.name} {name}": r for f in fits.fits for name, r in f.left_out.items()}),
            "",
            *constants,
            "",
        ]
    )
    print(text)
    if arguments.write:
        for gpu in shipped_gpus():
            replace_blocks(gpu.name, {"stream": plain(stream_block(gpu, fits))})
    if arguments.out:
        write_whole(arguments.out, text)


if __name__ == "__main__":
    main()
