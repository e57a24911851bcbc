"""Priced shapes: what the cost model says of every candidate on every GPU of the basket."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.cost.memory import encoder_memory
from hwsearch.settings import Settings
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import SearchSpace

Floats = NDArray[np.float64]
Report = Callable[[str, int, int], None]
"""Called with a stage, what of it is done, and the whole."""


def silent(stage: str, done: int, total: int) -> None:
    """A Report for callers that show nothing."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """N shapes priced on G GPUs.

    Attributes:
        latency: seconds a batch, weighted geometric mean over the workloads, [G, N].
        slowest: seconds of the slowest workload, [G, N]; what a latency limit is held against.
        memory: peak bytes over the workloads, [G, N].
        basket_latency: weighted geometric mean of `latency` over the GPUs, [N].
    """

    shapes: ShapeTable
    latency: Floats
    slowest: Floats
    memory: Floats
    basket_latency: Floats

    def __len__(self) -> int:
        return len(self.shapes)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Candidates:
        return Candidates(
            self.shapes.take(rows),
            self.latency[:, rows],
            self.slowest[:, rows],
            self.memory[:, rows],
            self.basket_latency[rows],
        )


def with_latency(space: SearchSpace, candidates: Candidates, latency: Floats) -> Candidates:
    """The same shapes with other seconds [G, N]; the slowest workload changes by as much as they all do."""
    slowest = candidates.slowest * latency / candidates.latency
    return replace(candidates, latency=latency, slowest=slowest, basket_latency=_over_basket(space, latency))


def settings_of(space: SearchSpace) -> Settings:
    file = space.file
    return Settings(mode=file.mode, runtime=file.runtime, head=space.head, attention_times=file.attention)


def price(space: SearchSpace, shapes: ShapeTable, report: Report = silent) -> Candidates:
    """Predict every shape on every GPU and workload of the space."""
    layers, settings = DistinctLayers(shapes), settings_of(space)
    workload_shares = shares(space.workload_weights)

    @functools.cache
    def peak_memory(dtype: str) -> Floats:
        peaks = [encoder_memory(shapes, w, settings, dtype).peak_bytes for w in space.workloads]
        return np.asarray(np.maximum.reduce(peaks))

    latency = np.zeros((len(space.gpus), len(shapes)))
    slowest, memory = np.zeros_like(latency), np.zeros_like(latency)
    for row, gpu in enumerate(space.gpus):
        report("predicting", row, len(space.gpus))
        for workload, share in zip(space.workloads, workload_shares, strict=True):
            seconds = encoder_time(layers, gpu, workload, settings).latency
            latency[row] += share * np.log(seconds)
            np.maximum(slowest[row], seconds, out=slowest[row])
        memory[row] = peak_memory(settings.dtype_on(gpu))
    report("predicting", len(space.gpus), len(space.gpus))
    latency = np.exp(latency)
    return Candidates(shapes, latency, slowest, memory, _over_basket(space, latency))


def _over_basket(space: SearchSpace, latency: Floats) -> Floats:
    return np.asarray(np.exp(shares(space.weights) @ np.log(latency)))


def shares(weights: tuple[float, ...]) -> Floats:
    """Weights that add up to 1."""
    return np.asarray(weights) / sum(weights)
