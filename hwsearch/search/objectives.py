"""What a run optimises and what it must keep to, as columns over candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsearch.search.candidates import Candidates, Floats
from hwsearch.search.study import Direction
from hwsearch.space.constraints import MEASURES
from hwsearch.space.schema import Bound
from hwsearch.space.search_space import SearchSpace

GIB = 2.0**30


@dataclass(frozen=True, eq=False)
class Objective:
    """One objective of the study.

    Attributes:
        name: with its unit, as dashboards show it.
        values: one per candidate, [N].
        reference: the reference shape's own value.
        weight: the user's; a winner's score adds up weight * ln(value / reference).
    """

    name: str
    direction: Direction
    weight: float
    values: Floats
    reference: float

    @property
    def losses(self) -> Floats:
        """The values with the sign that makes smaller better."""
        return self.values if self.direction == "minimize" else -self.values


def objectives(space: SearchSpace, candidates: Candidates, reference: Candidates) -> list[Objective]:
    """The space's objectives with weight above 0, in a fixed order. `reference` holds one shape."""
    asked = space.file.objectives
    found: list[Objective] = []
    weight = asked.latency.weight
    if asked.latency.over == "each":
        for row, gpu in enumerate(space.gpus):
            found.append(
                Objective(
                    f"latency_ms[{gpu.name}]",
                    "minimize",
                    weight * space.weights[row] / sum(space.weights),
                    1e3 * candidates.latency[row],
                    1e3 * float(reference.latency[row, 0]),
                )
            )
    elif asked.latency.over == "worst":
        ratios = candidates.latency / reference.latency
        found.append(Objective("worst_latency_ratio", "minimize", weight, ratios.max(axis=0), 1.0))
    else:
        found.append(
            Objective(
                "basket_latency_ms",
                "minimize",
                weight,
                1e3 * candidates.basket_latency,
                1e3 * float(reference.basket_latency[0]),
            )
        )
    for name, measure in MEASURES.items():
        if (objective := getattr(asked, name)) is not None:
            label, unit = (name, 1.0) if name == "depth" else (f"{name}_M", 1e6)
            found.append(
                Objective(
                    label,
                    "maximize",
                    objective.weight,
                    measure(candidates.shapes) / unit,
                    float(measure(reference.shapes)[0]) / unit,
                )
            )
    if asked.memory is not None:
        found.append(
            Objective(
                "peak_memory_GiB",
                "minimize",
                asked.memory.weight,
                candidates.memory.max(axis=0) / GIB,
                float(reference.memory.max()) / GIB,
            )
        )
    return [objective for objective in found if objective.weight > 0]


def losses(found: list[Objective]) -> Floats:
    """Objectives side by side, smaller is better, [N, K]."""
    return np.stack([objective.losses for objective in found], axis=1)


def scores(found: list[Objective]) -> Floats:
    """Weighted log-distance from the reference, [N]; smaller is better, the reference itself has 0.

    Weights are exchange rates: with weights 1 and 1, one percent of latency is worth one percent of
    the other objective.
    """
    total = np.zeros(len(found[0].values))
    for objective in found:
        sign = 1.0 if objective.direction == "minimize" else -1.0
        total += sign * objective.weight * np.log(objective.values / objective.reference)
    return total


def limits(space: SearchSpace, candidates: Candidates, reference: Candidates) -> dict[str, Floats]:
    """How far each candidate exceeds each limit, [N] by name; 0 or less keeps to it.

    These are what a device measures; their names become constraints of the Optuna study.
    """
    asked, found = space.file.limits, {}
    for row, gpu in enumerate(space.gpus):
        if gpu.name in asked.latency_ms:
            excess_ms = 1e3 * candidates.slowest[row] - asked.latency_ms[gpu.name]
            found[f"slowest_latency_ms[{gpu.name}]"] = excess_ms
        most = asked.memory_gib.get(gpu.name, np.inf) * GIB
        if asked.fits_memory:
            most = min(most, gpu.memory_bytes)
        if np.isfinite(most):
            found[f"memory_gib[{gpu.name}]"] = (candidates.memory[row] - most) / GIB
    bounded = (
        (
            "basket_latency_ms",
            _bounds(space, "latency"),
            candidates.basket_latency,
            reference.basket_latency,
            1e3,
        ),
        (
            "peak_memory_GiB",
            _bounds(space, "memory"),
            candidates.memory.max(0),
            reference.memory.max(0),
            1 / GIB,
        ),
    )
    for name, (low, high), values, own, unit in bounded:
        if low is not None:
            found[f"{name}.min"] = _value(low, own, unit) - values * unit
        if high is not None:
            found[f"{name}.max"] = values * unit - _value(high, own, unit)
    return found


def _bounds(space: SearchSpace, name: str) -> tuple[Bound | None, Bound | None]:
    objective = getattr(space.file.objectives, name)
    return (None, None) if objective is None else (objective.min, objective.max)


def _value(bound: Bound, reference: Floats, unit: float) -> float:
    return float(reference[0]) * unit if bound == "reference" else float(bound)
