"""What the measured rung found, as data and as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hwsearch.files import write_whole
from hwsearch.search.accuracy import Accuracy, accuracy
from hwsearch.search.candidates import Candidates, Floats, basket_latency, price
from hwsearch.search.objectives import Objective, limits, losses, objectives
from hwsearch.search.pareto import MOST_HYPERVOLUME_OBJECTIVES, Coverage
from hwsearch.search.result import RunResult
from hwsearch.shape import EncoderShape
from hwsearch.shape.notation import shape_yaml
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import Removal

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class OnGpu:
    """One shape as measured on one GPU.

    Attributes:
        latency_s: of a batch, weighted geometric mean of the medians over the workloads.
        slowest_s: of the slowest workload.
        peak_bytes: of the workload that needs most.
        error: half of the 95 % interval of the mean, relative, the largest over the workloads.
        taint: what disturbed the device; None for clean measurements.
    """

    latency_s: float
    slowest_s: float
    peak_bytes: float
    error: float
    taint: str | None = None


@dataclass(frozen=True)
class MeasuredShape:
    """One complete trial; `on` holds the GPUs that measured it, by profile name."""

    shape: EncoderShape
    on: dict[str, OnGpu]


@dataclass(frozen=True)
class FailedShape:
    """A shape that a device could not run, and why."""

    shape: EncoderShape
    failure: str


@dataclass(frozen=True, eq=False)
class Pricing:
    """Measured shapes as candidates.

    Where no device measured a shape on a GPU of the basket, what is predicted takes the place, times the
    median of measured / predicted over the shapes that were measured on that GPU; 1 where there are none.
    """

    predicted: RunResult
    scale: dict[str, float]

    @classmethod
    def of(cls, predicted: RunResult, shapes: Sequence[MeasuredShape]) -> Pricing:
        priced = _priced(predicted, shapes)
        scale = {}
        for row, gpu in enumerate(predicted.space.gpus):
            ratios = [
                shape.on[gpu.name].latency_s / priced.latency[row, column]
                for column, shape in enumerate(shapes)
                if gpu.name in shape.on
            ]
            scale[gpu.name] = float(np.median(ratios)) if ratios else 1.0
        return cls(predicted, scale)

    def candidates(self, shapes: Sequence[MeasuredShape]) -> Candidates:
        """One row a shape, in their order."""
        priced, space = _priced(self.predicted, shapes), self.predicted.space
        latency, slowest, memory = priced.latency.copy(), priced.slowest.copy(), priced.memory.copy()
        for row, gpu in enumerate(space.gpus):
            latency[row] *= self.scale[gpu.name]
            slowest[row] *= self.scale[gpu.name]
            for column, shape in enumerate(shapes):
                if (found := shape.on.get(gpu.name)) is not None:
                    latency[row, column], slowest[row, column] = found.latency_s, found.slowest_s
                    memory[row, column] = found.peak_bytes
        return Candidates(priced.shapes, latency, slowest, memory, basket_latency(space, latency))


def _priced(predicted: RunResult, shapes: Sequence[MeasuredShape]) -> Candidates:
    return price(predicted.space, _table(predicted, [each.shape for each in shapes]))


def _table(predicted: RunResult, shapes: Sequence[EncoderShape]) -> ShapeTable:
    if shapes:
        return ShapeTable.of(shapes)
    return predicted.reference.shapes.take(np.zeros(0, dtype=np.int64))
