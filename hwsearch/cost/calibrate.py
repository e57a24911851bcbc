"""Fits a profile to a user's own measurements: a table as `predict FILE.csv` takes it, with `measured_ms`.

Constants move together in a few knobs (the rate of tensor-core products, their bandwidth, ...), each a
factor that starts at 1. The fit is a maximum a posteriori: a knob leaves 1 only as far as the rows pull it
against its spread, so a single anchor run moves what it shows and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hwsearch.cost.interval import factors_of
from hwsearch.cost.model_table import price_models
from hwsearch.cost.operator_table import price_operators
from hwsearch.cost.table_rows import TableRows, settle_rows
from hwsearch.cost.tables import holds_operators
from hwsearch.csv_table import CsvTable, read_csv
from hwsearch.errors import HwsearchError
from hwsearch.gpu.calibration import Evidence
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Mode, RuntimeName

MEASURED = "measured_ms"
FOLDS = 5
# More rows than these are sampled: the fit has some ten unknowns.
MOST_FITTED_ROWS = 1500
# How far a row may lie from a right model, and how many rows of one table count as independent.
ROW_SPREAD, INDEPENDENT_ROWS = 0.08, 200
# Farther off than this is half a table only where its unit or its GPU is another one.
FARTHEST = 100.0
# No knob moves by more, whatever the outliers of a table ask for.
LARGEST_FACTOR = 10.0
# With fewer held-out rows a range is not read off them.
FEWEST_FOR_INTERVAL = 20
SHAPE_COLUMNS = {
    "gemm": ("n", "k"),
    "bmm": ("n", "k"),
    "attention": ("seq_len", "num_heads", "head_dim"),
    "model": ("layers", "hidden", "heads", "ffn"),
}


@dataclass(frozen=True)
class Knob:
    """Constants of one block that move by one factor.

    Attributes:
        name: as printed.
        block: gemm, attention or stream.
        constants: names of fields; those that a block of another kind lacks are left alone.
        spread: of the factor's logarithm, before any row is seen.
    """

    name: str
    block: str
    constants: tuple[str, ...]
    spread: float


KNOBS = (
    Knob("rate of products", "gemm", ("compute_fraction", "sustained_fraction"), 0.2),
    Knob("bandwidth of products", "gemm", ("bandwidth_fraction",), 0.15),
    Knob("overheads of products", "gemm", ("block_overhead_s", "tile_overhead_s", "step_latency_s"), 0.3),
    Knob("floor of products", "gemm", ("floor_s",), 0.3),
    Knob("rate of attention", "attention", ("compute_fraction", "exponential_fraction"), 0.2),
    Knob("overheads of attention", "attention", ("floor_cycles", "block_overhead_cycles"), 0.3),
    Knob("bandwidth of streams", "stream", ("bandwidth_fraction", "bytes_per_cycle"), 0.15),
    Knob("floor of streams", "stream", ("floor_s",), 0.3),
)
TENSOR_DTYPES = ("bf16", "fp16", "tf32")


@dataclass(frozen=True)
class Errors:
    """Of predicted / measured - 1, in percent: median of the absolute value, and median."""

    absolute: float
    bias: float

    @classmethod
    def of(cls, ratio: NDArray[np.float64]) -> Errors:
        return cls(float(100 * np.median(np.abs(ratio - 1))), float(100 * np.median(ratio - 1)))


@dataclass(frozen=True)
class Calibrated:
    """A GPU fitted to a table.

    Attributes:
        gpu: with the new constants and their evidence.
        rows: how many the table has.
        before: errors of the profile as it was.
        after: errors on rows held out of the fit; None where all rows have one shape, so none can be.
        fitted: errors of the new profile on the rows that it was fitted to.
        factors: by which the constants of each knob moved, only those that did.
    """

    gpu: Gpu
    rows: int
    before: Errors
    after: Errors | None
    fitted: Errors
    factors: dict[str, float]


def calibrate(
    path: Path,
    gpu: Gpu,
    *,
    dtype: str | None = None,
    runtime: RuntimeName = "graph",
    mode: Mode = "inference",
) -> Calibrated:
    """Fit `gpu` to the table in `path`; its other columns as `predict_table` reads them.

    Raises HwsearchError with file and line for rows of another GPU, and for what cannot be read.
    """
    table = read_csv(path)
    measured = table.positive(MEASURED) * 1e-3
    rows = settle_rows(table, gpu, dtype, runtime)
    for row, each in enumerate(rows.gpus):
        if each.name != gpu.name:
            raise table.error(row, "gpu", each.name, f"{gpu.name}, the GPU to calibrate")
    fit = _Fit(rows, np.log(measured), mode, holds_operators(table), frozenset(rows.dtypes))
    everything = np.arange(len(table))
    first = fit.predict(gpu, everything) / measured
    _check_unit(path, float(np.median(first)))
    held_out = _held_out(fit, gpu, table)
    knobs = fit.factors(gpu, everything)
    moved = turned(gpu, knobs, fit.dtypes)
    evidence_of = _evidence(path, len(table), None if held_out is None else held_out / measured)
    final = _with_evidence(gpu, moved, evidence_of)
    return Calibrated(
        gpu=final,
        rows=len(table),
        before=Errors.of(first),
        after=None if held_out is None else Errors.of(held_out / measured),
        fitted=Errors.of(fit.predict(moved, everything) / measured),
        factors={name: factor for name, factor in knobs.items() if abs(np.log(factor)) > 0.005},
    )


def _check_unit(path: Path, ratio: float) -> None:
    if not 1 / FARTHEST <= ratio <= FARTHEST:
        raise HwsearchError(
            f"{path}: column {MEASURED}: the median row is predicted at {ratio:.3g} times what was measured;"
            f" accepted: 1/{FARTHEST:.0f} to {FARTHEST:.0f}. Are these milliseconds, of this GPU?"
        )


def turned(gpu: Gpu, factors: Mapping[str, float], dtypes: frozenset[str]) -> Gpu:
    """`gpu` with the constants of every knob times its factor, for the units that `dtypes` run on."""
    calibration = gpu.calibration
    blocks: dict[str, Any] = {
        "gemm": dict(calibration.gemm),
        "attention": dict(calibration.attention),
        "stream": calibration.stream,
    }
    for knob in KNOBS:
        factor = factors[knob.name]
        if knob.block == "stream":
            blocks["stream"] = _scaled(blocks["stream"], knob, factor)
            continue
        for dtype in _same_units(gpu, dtypes):
            blocks[knob.block][dtype] = _scaled(blocks[knob.block][dtype], knob, factor)
    return replace(gpu, calibration=replace(calibration, **blocks))


def _same_units(gpu: Gpu, dtypes: frozenset[str]) -> list[str]:
    """What was timed on tensor cores in one dtype holds for the others that run there."""
    tensor = any(dtype in TENSOR_DTYPES for dtype in dtypes)
    return [d for d in gpu.dense_flops_per_s if d in dtypes or (tensor and d in TENSOR_DTYPES)]


def _scaled(constants: Any, knob: Knob, factor: float) -> Any:
    names = {field.name for field in fields(constants)}
    return replace(constants, **{n: getattr(constants, n) * factor for n in knob.constants if n in names})


@dataclass(frozen=True)
class _Fit:
    rows: TableRows
    log_measured: NDArray[np.float64]
    mode: Mode
    operators: bool
    dtypes: frozenset[str]

    def predict(self, gpu: Gpu, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of the rows `chosen` on `gpu`."""
        rows = self.rows.some(chosen, gpu)
        return (price_operators(rows) if self.operators else price_models(rows, self.mode)).seconds

    def factors(self, gpu: Gpu, chosen: NDArray[np.int64]) -> dict[str, float]:
        """The factor of every knob that the rows `chosen` ask for."""
        if len(chosen) > MOST_FITTED_ROWS:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST_FITTED_ROWS, replace=False))
        measured = self.log_measured[chosen]
        weight = np.sqrt(min(1.0, INDEPENDENT_ROWS / len(chosen))) / ROW_SPREAD
        spreads = np.array([knob.spread for knob in KNOBS])

        def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
            trial = turned(gpu, _named(x), self.dtypes)
            error = np.log(self.predict(trial, chosen)) - measured
            return np.concatenate([weight * error, x / spreads])

        # Beyond f_scale the loss grows linearly: a table of timings has outliers.
        found = least_squares(
            residuals, np.zeros(len(KNOBS)), loss="soft_l1", f_scale=3.0, diff_step=0.01, max_nfev=30
        )
        return _named(found.x)


def _named(logarithms: NDArray[np.float64]) -> dict[str, float]:
    largest = np.log(LARGEST_FACTOR)
    factors = np.exp(np.clip(logarithms, -largest, largest))
    return {knob.name: float(factor) for knob, factor in zip(KNOBS, factors, strict=True)}


def _held_out(fit: _Fit, gpu: Gpu, table: CsvTable) -> NDArray[np.float64] | None:
    """Every row predicted by a fit that saw no row of its shape; None if there is but one shape."""
    shapes = _shapes(table, fit.operators)
    numbers = {shape: i for i, shape in enumerate(dict.fromkeys(shapes))}
    folds = min(FOLDS, len(numbers))
    if folds < 2:
        return None
    part = np.random.default_rng(0).permutation(len(numbers)) % folds
    of_row = part[[numbers[shape] for shape in shapes]]
    seconds = np.empty(len(shapes))
    for fold in range(folds):
        trained = turned(gpu, fit.factors(gpu, np.flatnonzero(of_row != fold)), fit.dtypes)
        held = np.flatnonzero(of_row == fold)
        seconds[held] = fit.predict(trained, held)
    return seconds


def _shapes(table: CsvTable, operators: bool) -> list[tuple[str, ...]]:
    ops = table.column("op") if operators else ["model"] * len(table)
    columns = {op: [table.column(c) for c in SHAPE_COLUMNS.get(op, ("cols",))] for op in set(ops)}
    return [(op, *(cells[row] for cells in columns[op])) for row, op in enumerate(ops)]


def _evidence(path: Path, rows: int, ratio: NDArray[np.float64] | None) -> Evidence:
    evidence = Evidence("calibrated", f"{path.name}, {date.today().isoformat()}", rows)
    if ratio is None:
        return evidence
    evidence = replace(evidence, own_error_percent=Errors.of(ratio).absolute)
    if rows < FEWEST_FOR_INTERVAL:
        return evidence
    low, high = factors_of(ratio)
    return replace(evidence, low_factor=low, high_factor=high)


def _with_evidence(before: Gpu, after: Gpu, evidence: Evidence) -> Gpu:
    """`after` with `evidence` on every block that moved; a range that it lacks stays that of `before`."""

    def mark(old: Any, new: Any) -> Any:
        if old == new:
            return old
        note = f"started from constants that were {old.evidence.kind}: {old.evidence.data}"
        low = evidence.low_factor or old.evidence.low_factor
        high = evidence.high_factor or old.evidence.high_factor
        return replace(new, evidence=replace(evidence, low_factor=low, high_factor=high, note=note))

    a, b = before.calibration, after.calibration
    return replace(
        after,
        calibration=replace(
            b,
            kind="calibrated",
            gemm={dtype: mark(a.gemm[dtype], block) for dtype, block in b.gemm.items()},
            attention={dtype: mark(a.attention[dtype], block) for dtype, block in b.attention.items()},
            stream=mark(a.stream, b.stream),
        ),
    )
