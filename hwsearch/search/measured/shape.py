"""A measured shape: what its rows come to, as a trial's attributes, as a candidate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from hwsearch.cost.memory import CONTEXT_BYTES
from hwsearch.measure.row import DECISIVE, Row
from hwsearch.search.candidates import Candidates, shares, with_latency
from hwsearch.search.measured.sampler import MEASURED_ERROR, MEASURED_S
from hwsearch.shape import EncoderShape
from hwsearch.space.search_space import SearchSpace

# Half of a 95 % interval over the standard error.
REACH = 1.96


@dataclass(frozen=True)
class OnGpu:
    """One shape as measured on one GPU.

    Attributes:
        measured_s: of a batch, weighted geometric mean of the medians over the workloads.
        measured_error: its standard error, relative.
        slowest_s: of the slowest workload.
        peak_bytes: of the tensors in the workload that needs most; None where a device does not tell.
        taint: what disturbed the device; None for clean measurements.
        device: its product, and the versions of what ran there; times of two are not compared.
    """

    measured_s: float
    measured_error: float
    slowest_s: float
    peak_bytes: float | None
    taint: str | None
    device: str

    @classmethod
    def of(cls, rows: Sequence[Row], weights: tuple[float, ...]) -> OnGpu:
        """From one row a workload, and the workloads' weights."""
        seconds = np.array([row["p50_s"] for row in rows])
        errors = np.array([row["error"] for row in rows]) / REACH
        peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"] is not None]
        return cls(
            measured_s=float(np.exp(shares(weights) @ np.log(seconds))),
            measured_error=float(math.hypot(*(shares(weights) * errors))),
            slowest_s=float(seconds.max()),
            peak_bytes=max(peaks, default=None),
            taint="; ".join(dict.fromkeys(row["taint"] for row in rows if row["taint"])) or None,
            device=device_of(rows[0]),
        )


# By GPU in a trial's attributes; the sampler reads the first two.
ATTRIBUTES = tuple(field.name for field in fields(OnGpu))
assert ATTRIBUTES[:2] == (MEASURED_S, MEASURED_ERROR)


@dataclass(frozen=True)
class MeasuredShape:
    """One shape, and what was found of it by GPU."""

    shape: EncoderShape
    on: Mapping[str, OnGpu]

    def attributes(self) -> dict[str, Any]:
        """As a trial keeps it."""
        found = {gpu: asdict(each) for gpu, each in self.on.items()}
        return {name: {gpu: each[name] for gpu, each in found.items()} for name in ATTRIBUTES}

    @classmethod
    def of_trial(cls, shape: EncoderShape, trial: FrozenTrial) -> MeasuredShape:
        columns = {name: trial.user_attrs.get(name, {}) for name in ATTRIBUTES}
        gpus = columns[MEASURED_S]
        on = {gpu: OnGpu(**{name: column.get(gpu) for name, column in columns.items()}) for gpu in gpus}
        return cls(shape, on)


def device_of(row: Row) -> str:
    """What two rows of one GPU must share to be compared."""
    versions = [f"{name} {found}" for name in DECISIVE if (found := row["versions"].get(name))]
    threads = [f"threads {row['threads']}"] if row.get("threads") else []
    return ", ".join([str(row["device"]), *threads, *versions])


def corrections(
    space: SearchSpace, priced: Sequence[Candidates], measured: Sequence[Sequence[MeasuredShape]]
) -> dict[str, float]:
    """Median of measured / predicted over the shapes that were measured on a GPU; 1 where none was.

    By it the prediction is multiplied where a shape could not be measured any more. `priced` and `measured`
    are lists of tables with the same shapes.
    """
    ratios: dict[str, list[float]] = {gpu.name: [] for gpu in space.gpus}
    for candidates, shapes in zip(priced, measured, strict=True):
        for row, gpu in enumerate(space.gpus):
            for column, shape in enumerate(shapes):
                if (found := shape.on.get(gpu.name)) is not None:
                    ratios[gpu.name].append(found.measured_s / candidates.latency[row, column])
    return {name: float(np.median(found)) if found else 1.0 for name, found in ratios.items()}


def as_measured(
    space: SearchSpace,
    priced: Candidates,
    shapes: Sequence[MeasuredShape],
    corrections: Mapping[str, float],
) -> Candidates:
    """`priced`, the same shapes, with what was measured in place of what was predicted."""
    latency, slowest, memory = priced.latency.copy(), priced.slowest.copy(), priced.memory.copy()
    for row, gpu in enumerate(space.gpus):
        latency[row] *= corrections[gpu.name]
        slowest[row] *= corrections[gpu.name]
        for column, shape in enumerate(shapes):
            if (found := shape.on.get(gpu.name)) is not None:
                latency[row, column], slowest[row, column] = found.measured_s, found.slowest_s
                if found.peak_bytes is not None:
                    memory[row, column] = CONTEXT_BYTES + found.peak_bytes
    return replace(with_latency(space, priced, latency), slowest=slowest, memory=memory)
