"""What a run found, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.tuned_attention import AttentionTime
from hwsearch.search.candidates import Candidates
from hwsearch.search.objectives import Objective, losses, objectives, scores
from hwsearch.search.pareto import front_rows
from hwsearch.search.run_folder import RunFolder
from hwsearch.search.winners import best_by_weight, fastest_no_worse, like_for_like
from hwsearch.shape import EncoderShape
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters
from hwsearch.shape.quality_prior import effective_parameters
from hwsearch.space.search_space import Removal, SearchSpace


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run found.

    Attributes:
        candidates: every priced shape that keeps to the limits.
        front: those that no other dominates, with `objectives` over them.
        reference: the space's reference shape, priced alike.
        winner_rows: rows of `front`, best first.
        fastest_no_worse_row, like_for_like_row: rows of `candidates`, see `search/winners.py`.
        removals: what each constraint and limit removed; limits alone where the space was explored.
        recorded: complete trials in the study.
        attention: the kinds of attention layers that tuned tables priced, see `search/tables_used.py`.
        source: where the costs come from, "predicted" or "measured".
    """

    space: SearchSpace
    folder: RunFolder
    candidates: Candidates
    front: Candidates
    objectives: list[Objective]
    reference: Candidates
    winner_rows: list[int]
    fastest_no_worse_row: int | None
    like_for_like_row: int | None
    removals: list[Removal]
    recorded: int
    attention: dict[str, AttentionTime]
    source: str = "predicted"

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        folder: RunFolder,
        candidates: Candidates,
        reference: Candidates,
        removals: list[Removal],
        recorded: int,
        attention: dict[str, AttentionTime],
        source: str = "predicted",
    ) -> RunResult:
        """The front of these candidates and its winners."""
        all_objectives = objectives(space, candidates, reference)
        front = candidates.take(front_rows(losses(all_objectives)))
        found = objectives(space, front, reference)
        return cls(
            space=space,
            folder=folder,
            candidates=candidates,
            front=front,
            objectives=found,
            reference=reference,
            winner_rows=best_by_weight(front, found, space.file.winners),
            fastest_no_worse_row=fastest_no_worse(candidates, all_objectives, reference),
            like_for_like_row=like_for_like(candidates, reference),
            removals=removals,
            recorded=recorded,
            attention=attention,
            source=source,
        )

    @property
    def winners(self) -> list[EncoderShape]:
        """The winners as shapes, best first."""
        return [self.front.shapes.shape(row) for row in self.winner_rows]

    def summary(self) -> dict[str, Any]:
        """The run's answer as plain data: what the terminal's table and the report are made from."""
        space, reference = self.space, self.reference
        found = scores(self.objectives)

        def candidate(row: int | None) -> dict[str, Any] | None:
            return None if row is None else _row(self.candidates, row, reference)

        return {
            "space": space.name,
            "source": self.source,
            "gpus": [
                {"name": gpu.name, "weight": weight, "calibration": gpu.calibration.kind}
                for gpu, weight in zip(space.gpus, space.weights, strict=True)
            ],
            "workloads": [workload.spec for workload in space.workloads],
            "mode": space.file.mode,
            "runtime": space.file.runtime,
            "attention": {name: asdict(time) for name, time in self.attention.items()},
            "end_to_end_error_percent": RUNTIMES[space.file.runtime].end_to_end_error_percent,
            "objectives": [
                {"name": o.name, "direction": o.direction, "weight": o.weight, "reference": o.reference}
                for o in self.objectives
            ],
            "counts": {
                "grid": space.size,
                "candidates": len(self.candidates),
                "front": len(self.front),
                "recorded": self.recorded,
            },
            "removals": [
                {"constraint": r.constraint, "removed": r.removed, "left": r.left} for r in self.removals
            ],
            "reference": _row(reference, 0, reference),
            "winners": [
                {**_row(self.front, row, reference), "score": float(found[row])} for row in self.winner_rows
            ],
            "fastest_no_worse": candidate(self.fastest_no_worse_row),
            "like_for_like": candidate(self.like_for_like_row),
        }


def _row(candidates: Candidates, row: int, reference: Candidates) -> dict[str, Any]:
    """One shape in a summary; speedups are the reference's latency over its own."""
    shape = candidates.shapes.shape(row)
    return {
        "shape": str(shape),
        "parameters": int(masked_lm_parameters(shape)),
        "body_parameters": int(body_parameters(shape)),
        "quality_prior": float(effective_parameters(candidates.shapes.take(np.array([row])))[0]),
        "basket_latency_ms": 1e3 * float(candidates.basket_latency[row]),
        "basket_speedup": float(reference.basket_latency[0] / candidates.basket_latency[row]),
        "latency_ms": [1e3 * float(seconds) for seconds in candidates.latency[:, row]],
        "speedup": [
            float(own / seconds)
            for own, seconds in zip(reference.latency[:, 0], candidates.latency[:, row], strict=True)
        ],
        "peak_memory_bytes": float(candidates.memory[:, row].max()),
    }
