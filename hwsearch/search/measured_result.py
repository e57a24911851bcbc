"""What the measured rung found, as data and as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hwsearch.cost.memory import CONTEXT_BYTES
from hwsearch.files import write_whole
from hwsearch.search.accuracy import accuracy
from hwsearch.search.candidates import Candidates
from hwsearch.search.measured_shape import MeasuredShape, as_measured, corrections
from hwsearch.search.objectives import limits, losses, objectives
from hwsearch.search.pareto import MOST_HYPERVOLUME_OBJECTIVES, Coverage
from hwsearch.search.result import RunResult
from hwsearch.search.run_folder import RunFolder
from hwsearch.shape import EncoderShape
from hwsearch.shape.notation import shape_yaml
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters
from hwsearch.space.search_space import Removal

MEASURED, PREDICTED = "measured", "predicted"


@dataclass(frozen=True)
class FailedShape:
    """A shape that a device could not run: on which GPU, and why."""

    shape: EncoderShape
    gpu: str
    failure: str


@dataclass(frozen=True, eq=False)
class MeasuredResult:
    """What the measured rung found.

    Attributes:
        predicted: the run that it stands on.
        answer: front, winners and verdicts among the measured shapes alone. On GPUs of the basket that no
            device measures their latency is predicted.
        reference: measured first; `reference_row` is its row in the predicted candidates, None where the
            space does not hold it: then it is no candidate.
        shapes: besides the reference, in the order of their trials; `rows` are theirs.
        failed: shapes that could not be measured.
        exhausted: the search ended because no shape that is left promises anything.
    """

    predicted: RunResult
    answer: RunResult
    reference: MeasuredShape
    reference_row: int | None
    shapes: list[MeasuredShape]
    rows: list[int]
    failed: list[FailedShape]
    exhausted: bool

    @classmethod
    def of(
        cls,
        predicted: RunResult,
        reference: MeasuredShape,
        reference_row: int | None,
        shapes: list[MeasuredShape],
        rows: list[int],
        failed: list[FailedShape],
        recorded: int,
        exhausted: bool = False,
    ) -> MeasuredResult:
        """The answer from what was measured."""
        space = predicted.space
        own, candidates = _candidates(predicted, reference, reference_row, shapes, rows)
        kept = np.ones(len(candidates), dtype=bool)
        removals = []
        for name, excess in limits(space, candidates, own).items():
            before = int(kept.sum())
            kept &= excess <= 0
            removals.append(Removal(name, before - int(kept.sum()), int(kept.sum())))
        answer = RunResult.of(
            space,
            predicted.folder,
            candidates.take(kept),
            own,
            removals,
            recorded,
            predicted.attention,
            source=MEASURED,
        )
        return cls(predicted, answer, reference, reference_row, shapes, rows, failed, exhausted)

    @property
    def folder(self) -> RunFolder:
        return self.predicted.folder

    @property
    def measured_gpus(self) -> list[str]:
        """Of the basket, those of which the reference was measured."""
        return [gpu.name for gpu in self.predicted.space.gpus if gpu.name in self.reference.on]

    def summary(self) -> dict[str, Any]:
        """The rung's answer as plain data: that of `RunResult`, and how measured and predicted compare."""
        answer = self.answer.summary()
        on_gpus = [
            {**gpu, "source": MEASURED if gpu["name"] in self.measured_gpus else PREDICTED}
            for gpu in answer["gpus"]
        ]
        return {
            **answer,
            "gpus": on_gpus,
            "devices": {gpu: found.device for gpu, found in self.reference.on.items()},
            "counts": {
                **answer["counts"],
                "priced": len(self.predicted.candidates),
                "measured": len(self.shapes),
                "failed": len(self.failed),
            },
            "exhausted": self.exhausted,
            "accuracy": {gpu: asdict(self._accuracy(gpu)) for gpu in self.measured_gpus},
            "hypervolume": self._hypervolume(),
            "shapes": self._shape_rows(),
            "failed": [
                {"shape": str(each.shape), "gpu": each.gpu, "failure": each.failure} for each in self.failed
            ],
        }

    def _accuracy(self, gpu: str) -> Any:
        rows = [row for row in self._shape_rows() if gpu in row["measured_ms"]]
        return accuracy(
            np.array([row["predicted_ms"][gpu] for row in rows]),
            np.array([row["measured_ms"][gpu] for row in rows]),
            np.array([row["parameters"] for row in rows]),
        )

    def _shape_rows(self) -> list[dict[str, Any]]:
        """The reference and every candidate, as measured and as predicted."""
        front = {self.answer.front.shapes.shape(row) for row in range(len(self.answer.front))}
        pairs = [(self.reference, self.predicted.reference, 0)]
        pairs += [
            (shape, self.predicted.candidates, row) for shape, row in zip(self.shapes, self.rows, strict=True)
        ]
        return [_shape_row(*pair, self.predicted, pair[0].shape in front) for pair in pairs]

    def _hypervolume(self) -> list[float]:
        """After each shape the share of the last front's hypervolume; none beyond four objectives."""
        space = self.predicted.space
        own, candidates = _candidates(
            self.predicted, self.reference, self.reference_row, self.shapes, self.rows
        )
        found = losses(objectives(space, candidates, own))
        if not len(self.answer.front) or found.shape[1] > MOST_HYPERVOLUME_OBJECTIVES:
            return []
        for excess in limits(space, candidates, own).values():
            found[excess > 0] = np.inf
        coverage = Coverage.of(losses(self.answer.objectives))
        return [coverage.share(found[: count + 1]) for count in range(len(found))]


def _candidates(
    predicted: RunResult,
    reference: MeasuredShape,
    reference_row: int | None,
    shapes: list[MeasuredShape],
    rows: list[int],
) -> tuple[Candidates, Candidates]:
    """As `measured_candidates`; the reference comes first of them where it is one."""
    if reference_row is not None:
        shapes, rows = [reference, *shapes], [reference_row, *rows]
    return measured_candidates(predicted, reference, shapes, rows)


def measured_candidates(
    predicted: RunResult,
    reference: MeasuredShape,
    shapes: Sequence[MeasuredShape],
    rows: Sequence[int],
) -> tuple[Candidates, Candidates]:
    """The reference and the shapes, at `rows` of the predicted candidates, as measured."""
    space = predicted.space
    priced = predicted.candidates.take(np.array(rows, dtype=np.int64))
    factors = corrections(space, [predicted.reference, priced], [[reference], shapes])
    own = as_measured(space, predicted.reference, [reference], factors)
    return own, as_measured(space, priced, shapes, factors)


def _shape_row(
    measured: MeasuredShape, priced: Candidates, column: int, predicted: RunResult, on_front: bool
) -> dict[str, Any]:
    shape = measured.shape
    gpus = [gpu.name for gpu in predicted.space.gpus]
    return {
        "shape": str(shape),
        "is_reference": shape == predicted.space.reference,
        "parameters": int(masked_lm_parameters(shape)),
        "body_parameters": int(body_parameters(shape)),
        "on_front": on_front,
        "predicted_ms": {gpu: 1e3 * float(priced.latency[row, column]) for row, gpu in enumerate(gpus)},
        "measured_ms": {gpu: 1e3 * found.measured_s for gpu, found in measured.on.items()},
        "error": {gpu: found.measured_error for gpu, found in measured.on.items()},
        # Of tensors: a CUDA context, which predictions count, is nobody's to measure.
        "predicted_bytes": {
            gpu: float(priced.memory[row, column]) - CONTEXT_BYTES for row, gpu in enumerate(gpus)
        },
        "measured_bytes": {gpu: found.peak_bytes for gpu, found in measured.on.items()},
        "taint": {gpu: found.taint for gpu, found in measured.on.items() if found.taint},
        "source": MEASURED,
    }


def write_measured(result: MeasuredResult) -> None:
    """measured.json, measured.csv, and measured/0/shape.yaml and so on, the winners; each file whole."""
    folder, summary, answer = result.predicted.folder, result.summary(), result.answer
    flat = [
        {
            f"{name}[{gpu}]" if gpu else name: each
            for name, value in row.items()
            for gpu, each in (value.items() if isinstance(value, dict) else [("", value)])
        }
        for row in summary["shapes"]
    ]
    write_whole(folder.measured_table, pd.DataFrame(flat).to_csv(index=False))
    named: dict[str, EncoderShape] = {str(rank): shape for rank, shape in enumerate(answer.winners)}
    if answer.like_for_like_row is not None:
        named["like-for-like"] = answer.candidates.shapes.shape(answer.like_for_like_row)
    for name, shape in named.items():
        title = f"# {shape}, from a measured run of {answer.space.name}\n"
        write_whole(folder.measured_winner(name), title + shape_yaml(shape))
    for stale in folder.path.glob("measured/*/shape.yaml"):
        if stale.parent.name not in named:
            stale.unlink()
    write_whole(folder.measured_summary, json.dumps(summary, indent=1) + "\n")
