"""Fit the fp32 (SIMT) GEMM and batched GEMM constants, and print own and left-out errors of each design.

    python benchmarks/fit_fp32.py --data DIR [--designs] [--write] [--out results/fit_fp32.md]

DIR/neusight holds linear_fp32.csv.gz and bmm_fp32.csv.gz (sitar-lab/NeuSight 6945927, TF32 off, eager).
Their N is the reduction and K the output width: the grids say so in every row (gx = ceil(K / tile)).
Constants are shared by all GPUs. Left out: everything, the energy per FLOP of the process included, is
fitted on the other GPUs; the two A100 count as one. A process whose cards are all left out is held by the
tightest bound that the others give: a card that runs at its boost clock spends at most its power there.
Own: shared constants, and the GPU's own compute and bandwidth fraction fitted on two thirds of the (n, k)
groups, judged on the rest, three times.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from judging import BEING_FITTED, FOLDS, coverage, equal_weight, fold_of, interval, median_bias, median_error
from numpy.typing import NDArray
from profile_blocks import replace_gemm, shipped_gpus
from scipy.optimize import least_squares
from sources import NEUSIGHT, chip, neusight_gpus

from hwsearch.cost import gemm_simt
from hwsearch.cost.eager import HOST_TIME, eager_seconds
from hwsearch.cost.gemm_simt import SIMT, SimtModel, sgemm_batched_seconds, sgemm_seconds
from hwsearch.files import write_whole
from hwsearch.gpu.calibration import Evidence, SimtConstants
from hwsearch.gpu.power import POWER_BASE_W, POWER_SHARE, PROCESSES, Process
from hwsearch.gpu.profile import Gpu
from hwsearch.gpu.profile_text import plain

Vector = NDArray[np.float64]
DEVICE_BOUND_S = 3e-4
# Of a GPU that was not timed; smaller rows than DEVICE_BOUND_S are the host's, so the floor is bmm's.
BANDWIDTH_FRACTION, FLOOR_S = 0.55, 6e-6
SAMPLE = 600


@dataclass(frozen=True)
class Table:
    """Measured rows of one operator on one GPU; `part` is the fold that a row's (n, k) belongs to."""

    gpu: Gpu
    operator: str
    frame: pd.DataFrame

    @property
    def chip(self) -> str:
        return chip(self.gpu.name)

    def rows(self, kept: NDArray[np.bool_] | pd.Series) -> Table:
        return replace(self, frame=self.frame[kept])

    def sample(self, count: int) -> Table:
        return replace(self, frame=self.frame.sample(min(count, len(self.frame)), random_state=1))

    @property
    def device_bound(self) -> Table:
        return self.rows(self.frame["seconds"] > DEVICE_BOUND_S)


def load(data: Path) -> list[Table]:
    """Every table, rows of equal shape at their median."""
    tables = []
    gpus = neusight_gpus()
    for operator, name in (("gemm", "linear"), ("bmm", "bmm")):
        frame = pd.read_csv(data / "neusight" / f"{name}_fp32.csv.gz")
        frame = frame.rename(columns={"B": "b", "M": "m", "K": "n", "N": "k"})
        frame = frame.groupby(["device", "b", "m", "n", "k"])["latency_ms"].median().reset_index()
        frame["seconds"] = 1e-3 * frame["latency_ms"]
        groups = frame.groupby(["n", "k"]).ngroup().to_numpy()
        frame["part"] = fold_of(groups)
        tables += [Table(gpu, operator, frame[frame["device"] == device]) for device, gpu in gpus.items()]
    return tables


@dataclass(frozen=True)
class Design:
    """What is priced and fitted: `process(gpu, energies)`, or the boost clock; one energy for all or not;
    whether short kernels in a loop may exceed the limit."""

    name: str
    process: Callable[[Gpu, Mapping[str, float]], Process]
    shared_energy: bool = False
    bursts: bool = True


def process_name(gpu: Gpu) -> str:
    return "7 nm" if gpu.compute_capability == (8, 0) else "12 nm"


def never_capped(gpu: Gpu, _: Mapping[str, float]) -> Process:
    return Process(1e-15, 1.0, 1e12)


def with_floor(gpu: Gpu, energies: Mapping[str, float]) -> Process:
    return replace(PROCESSES[gpu.compute_capability], simt_j=energies[process_name(gpu)])


def hard(gpu: Gpu, energies: Mapping[str, float]) -> Process:
    return Process(energies[process_name(gpu)], 1.0, 1e12)


def always_falling(gpu: Gpu, energies: Mapping[str, float]) -> Process:
    return Process(energies[process_name(gpu)], 1.0, 0.5 * gpu.boost_hz)


CHOSEN = Design("voltage floor of the process", with_floor)
DESIGNS = (
    CHOSEN,
    Design("the same, no bursts", with_floor, bursts=False),
    Design("no cap", never_capped),
    Design("hard cap, energy by process", hard),
    Design("hard cap, one energy", hard, shared_energy=True),
    Design("floor at half of boost", always_falling),
)
KINDS = tuple(SIMT.efficiency)
# Names, starting values, and how far (in logs, one sigma) a fit may pull them. The values are round, not
# fitted, so that a left-out GPU leaves no trace: 8 x 8 results a thread hide their loads, 4 x 4 do not.
PRIORS: dict[str, tuple[float, float]] = {
    **{
        kind: (1.0 if kind in ("128x128", "128x64") else 0.9 if kind == "64x64" else 0.75, 0.2)
        for kind in KINDS
    },
    "prologue_cycles": (1500.0, 1.0),
    "latency_warps": (1.0, 1.0),
    "bandwidth_fraction": (0.7, 0.3),
    # Of rows that the device bounds, with what eager PyTorch adds to each.
    "gemm floor": (14e-6, 0.5),
    "bmm floor": (6e-6, 0.5),
    "pascal": (0.95, 0.05),
    "12 nm": (12e-12, 0.5),
    "7 nm": (12e-12, 0.5),
    "compute_fraction": (1.0, 0.0),
}


def model_of(values: Mapping[str, float]) -> SimtModel:
    efficiency = {kind: values[kind] for kind in KINDS}
    return SimtModel(efficiency, values["prologue_cycles"], values["latency_warps"])


def price(table: Table, values: Mapping[str, float], design: Design) -> Vector:
    """Seconds of every row; the design's process takes the place of the profile's."""
    energies = values if not design.shared_energy else {**values, "7 nm": values["12 nm"]}
    fraction = values["compute_fraction"]
    if table.gpu.compute_capability == (6, 0):
        fraction *= values["pascal"] / gemm_simt.ISSUE_SHARE[6, 0]
    floor_s = values[f"{table.operator} floor"]
    constants = SimtConstants(floor_s, fraction, values["bandwidth_fraction"], BEING_FITTED)
    gpu = replace(table.gpu, calibration=replace(table.gpu.calibration, gemm={"fp32": constants}))
    b, m, n, k = (table.frame[c].to_numpy() for c in "bmnk")
    with patch.dict(PROCESSES, {gpu.compute_capability: design.process(gpu, energies)}):
        if table.operator == "bmm":
            return sgemm_batched_seconds(gpu, "fp32", b, m, n, k, design.bursts, model_of(values))
        return sgemm_seconds(gpu, "fp32", b * m, n, k, design.bursts, model_of(values))


def fit(
    tables: Sequence[Table], design: Design, held: Mapping[str, float], free: Sequence[str]
) -> dict[str, float]:
    """Values with the least robust log error; every chip and operator weighs the same."""
    names = [name for name in free if name not in held]
    start = {name: value for name, (value, _) in PRIORS.items()} | dict(held)
    width = np.array([PRIORS[name][1] or 0.3 for name in names])
    origin = np.log([start[name] for name in names])
    samples = [table.sample(SAMPLE) for table in tables]
    chips = [table.chip for table in samples]

    def values(x: Vector) -> dict[str, float]:
        return start | dict(zip(names, np.exp(x), strict=True))

    def residuals(x: Vector) -> Vector:
        parts = []
        for table in samples:
            error = np.log(price(table, values(x), design) / table.frame["seconds"].to_numpy())
            robust = np.sign(error) * np.sqrt(0.02 * (np.sqrt(1 + (error / 0.1) ** 2) - 1))
            parts.append(robust / np.sqrt(len(error) * chips.count(table.chip)))
        return np.concatenate([60 * np.concatenate(parts), (x - origin) / width])

    return values(least_squares(residuals, origin, diff_step=1e-3, max_nfev=15).x)


SHARED = tuple(name for name in PRIORS if name != "compute_fraction")
OF_ONE_GPU = ("compute_fraction", "bandwidth_fraction", "gemm floor", "bmm floor")


def bounds_from(tables: Sequence[Table], left_out: str) -> dict[str, float]:
    """Held values where the tables left say nothing: an energy that no capped card shows, Pascal's lanes."""
    held: dict[str, float] = {}
    if left_out == "t4":
        v100 = next(t.gpu for t in tables if t.gpu.name == "v100")
        power_w = (1 - POWER_SHARE) * v100.tdp_w - POWER_BASE_W
        held["12 nm"] = power_w / v100.dense_flops_per_s["fp32"]
    if left_out == "a100":
        held["7 nm"] = 1e-13  # no other card of its process: never capped
    if left_out == "p100":
        held["pascal"] = 0.88  # P40 and P4 reach 0.86 and 0.87 of their rate, same source as gpu/power.py
    return held


def left_out(tables: Sequence[Table], design: Design) -> dict[tuple[str, str], Vector]:
    """Predicted over measured for every device-bound row of every table."""
    found = {}
    for each in dict.fromkeys(table.chip for table in tables):
        others = [t.device_bound for t in tables if t.chip != each]
        values = fit(others, design, bounds_from(others, each), SHARED)
        for table in (t.device_bound for t in tables if t.chip == each):
            found[table.operator, table.gpu.name] = ratios(table, values, design)
    return found


def own(tables: Sequence[Table], shared: Mapping[str, float]) -> dict[tuple[str, str], Vector]:
    """The same with the GPU's own fractions, from the other folds of its own rows."""
    found = {}
    for table in (t.device_bound for t in tables):
        parts = []
        for fold in range(FOLDS):
            inside = table.frame["part"] == fold
            values = fit([table.rows(~inside)], CHOSEN, _all_but(shared, OF_ONE_GPU), OF_ONE_GPU)
            parts.append(ratios(table.rows(inside), values, CHOSEN))
        found[table.operator, table.gpu.name] = np.concatenate(parts)
    return found


def _all_but(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in names}


def ratios(table: Table, values: Mapping[str, float], design: Design) -> Vector:
    return np.asarray(price(table, values, design) / table.frame["seconds"].to_numpy())


def eager_ratios(table: Table, values: Mapping[str, float]) -> Vector:
    device = {**values, "gemm floor": FLOOR_S, "bmm floor": FLOOR_S}
    predicted = eager_seconds(price(table, device, CHOSEN), HOST_TIME[table.operator])
    return np.asarray(predicted / table.frame["seconds"].to_numpy())


def lines(title: str, found: Mapping[tuple[str, str], Vector]) -> list[str]:
    """Median |error| (bias) by GPU, and the mean over GPUs, a row an operator."""
    rows = []
    for operator in ("gemm", "bmm"):
        one = {gpu: ratio for (kind, gpu), ratio in found.items() if kind == operator}
        cells = [f"{median_error(ratio):.1f} ({median_bias(ratio):+.0f})" for ratio in one.values()]
        mean = np.mean([median_error(ratio) for ratio in one.values()])
        rows.append(f"| {title} | {operator} | " + " | ".join(cells) + f" | {mean:.1f} |")
    return rows


Found = Mapping[tuple[str, str], Vector]


def write_blocks(
    tables: Sequence[Table], shared: Mapping[str, float], held_out: Found, unseen: Found
) -> None:
    """fp32, and fp16 where there are no tensor cores, of every profile."""
    rows = {gpu: len(t.device_bound.frame) for t in tables if t.operator == "gemm" for gpu in [t.gpu.name]}
    errors = [median_error(ratio) for (operator, _), ratio in unseen.items() if operator == "gemm"]
    everywhere = Evidence(
        "transferred",
        f"{NEUSIGHT}, linear, fp32, rows above 0.3 ms",
        sum(rows.values()),
        None,
        float(np.mean(errors)),
        **interval(np.concatenate([equal_weight(ratio) for ratio in unseen.values()])),
        from_gpus=tuple(rows),
        note="clock from the power limit, share of the lanes from square products (hwsearch.cost.gemm_simt)",
    )
    for gpu in shipped_gpus():
        name = gpu.name
        block = SimtConstants(FLOOR_S, 1.0, BANDWIDTH_FRACTION, everywhere)
        if name in rows:
            mine = [t.device_bound for t in tables if t.gpu.name == name]
            values = fit(mine, CHOSEN, _all_but(shared, OF_ONE_GPU), OF_ONE_GPU)
            ratio = held_out["gemm", name]
            evidence = replace(
                everywhere,
                kind="fitted",
                rows=rows[name],
                own_error_percent=median_error(ratio),
                transfer_error_percent=median_error(unseen["gemm", name]),
                from_gpus=(),
                note="timed on the PCIe card, 250 W" if name == "v100" else "",
                **interval(ratio),
            )
            fractions = (values["compute_fraction"], values["bandwidth_fraction"])
            block = SimtConstants(FLOOR_S, *fractions, evidence)
        blocks = {"fp32": plain(block)}
        if "fp16" in gpu.dense_flops_per_s and gpu.compute_capability < (7, 0):
            note = "no fp16 timings: error unknown; constants of fp32"
            untimed = replace(
                everywhere, rows=rows[name], transfer_error_percent=None, from_gpus=(name,), note=note
            )
            blocks["fp16"] = plain(replace(block, evidence=untimed))
        replace_gemm(name, blocks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--designs", action="store_true", help="leave one out with every design of the clock")
    parser.add_argument("--write", action="store_true", help="update the profiles")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    tables = load(arguments.data)
    gpus = list(dict.fromkeys(table.gpu.name for table in tables))
    report = ["| what | op | " + " | ".join(gpus) + " | mean |", "| --- " * (len(gpus) + 3) + "|"]
    shared = fit([t.device_bound for t in tables], CHOSEN, {}, SHARED)
    keyed = {(t.operator, t.gpu.name): t for t in tables}
    report += lines("all fitted", {key: ratios(t.device_bound, shared, CHOSEN) for key, t in keyed.items()})
    held_out, unseen = own(tables, shared), left_out(tables, CHOSEN)
    report += lines("own, held-out folds", held_out)
    report += lines(f"left out: {CHOSEN.name}", unseen)
    for design in DESIGNS[1:] if arguments.designs else ():
        report += lines(f"left out: {design.name}", left_out(tables, design))
    report += lines("all rows, eager floor", {key: eager_ratios(t, shared) for key, t in keyed.items()})
    report += ["", coverage({f"{gpu} {operator}": ratio for (operator, gpu), ratio in unseen.items()})]
    report += ["", *(f"{name}: {value:.4g}" for name, value in shared.items())]
    text = "\n".join(report) + "\n"
    print(text)
    if arguments.out:
        write_whole(arguments.out, text)
    if arguments.write:
        write_blocks(tables, shared, held_out, unseen)


if __name__ == "__main__":
    main()
