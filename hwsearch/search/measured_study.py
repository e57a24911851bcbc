"""What a study of measured shapes holds, of all coordinators that fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hwsearch.search.candidates import price
from hwsearch.search.leases import FAILURE, SHAPE_HASH
from hwsearch.search.measured_result import FailedShape, MeasuredResult
from hwsearch.search.measured_shape import MeasuredShape
from hwsearch.search.objectives import limits
from hwsearch.search.parameters import Key, candidate_values, key_of, keys
from hwsearch.search.result import RunResult
from hwsearch.search.study import claimed_storage
from hwsearch.shape import EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import LARGEST_GRID, valid_shapes

FAILED_ON = "failed_on"


class Shapes:
    """The predicted candidates by the parameters of a trial."""

    def __init__(self, predicted: RunResult) -> None:
        self._candidates = predicted.candidates.shapes
        self._values = candidate_values(predicted.space.file.shape)
        self._rows: dict[Key, int] = {key: row for row, key in enumerate(keys(self._candidates))}
        self._reference_hash = predicted.space.reference.hash()
        self.reference_row = self._row_of(predicted.space.reference)
        """None where the space does not hold the reference."""

    def is_reference(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get(SHAPE_HASH) == self._reference_hash)

    def row(self, trial: FrozenTrial) -> int | None:
        """Of a trial that is not the reference's."""
        key = key_of(trial.params, self._values)
        return None if key is None else self._rows.get(key)

    def row_of_key(self, key: Key) -> int:
        return self._rows[key]

    def shape(self, row: int) -> EncoderShape:
        return self._candidates.shape(row)

    def _row_of(self, shape: EncoderShape) -> int | None:
        row = self._rows.get(keys(ShapeTable.of([shape]))[0])
        return row if row is not None and self._candidates.shape(row) == shape else None


def with_all_shapes(predicted: RunResult) -> RunResult:
    """The run with every valid shape among its candidates, those too that are predicted to break a limit:
    what is measured decides. Unchanged where the space is too large to be enumerated."""
    space = predicted.space
    limited = limits(space, predicted.reference, predicted.reference)
    removed = any(each.removed for each in predicted.removals if each.constraint in limited)
    if space.size > LARGEST_GRID or not removed:
        return predicted
    shapes, _ = valid_shapes(space)
    return replace(predicted, candidates=price(space, shapes))


def study_name(space: str) -> str:
    return f"{space} measured"


def read_study(
    predicted: RunResult, shapes: Shapes, study: Study, *, exhausted: bool = False
) -> MeasuredResult | None:
    """The answer as far as the study goes; None where the reference is not measured yet."""
    reference = None
    found, rows, failed = [], [], []
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if shapes.is_reference(trial):
            if trial.state == TrialState.COMPLETE:
                reference = MeasuredShape.of_trial(predicted.space.reference, trial)
        elif (row := shapes.row(trial)) is None:
            continue
        elif trial.state == TrialState.COMPLETE:
            found.append(MeasuredShape.of_trial(shapes.shape(row), trial))
            rows.append(row)
        elif FAILURE in trial.user_attrs:
            facts = trial.user_attrs
            failed.append(FailedShape(shapes.shape(row), facts.get(FAILED_ON, ""), facts[FAILURE]))
    if reference is None:
        return None
    recorded = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return MeasuredResult.of(
        predicted, reference, shapes.reference_row, found, rows, failed, recorded, exhausted
    )


def measured_so_far(
    predicted: RunResult, storage: str | None, warn: Callable[[str], None]
) -> MeasuredResult | None:
    """The measured rung of a run, where it has come that far. `storage` is the run's."""
    if not predicted.folder.measured_summary.is_file():
        return None
    name = study_name(predicted.space.name)
    with claimed_storage(storage or str(predicted.folder.journal), warn) as store:
        if name not in optuna.get_all_study_names(store):
            return None
        found = with_all_shapes(predicted)
        return read_study(found, Shapes(found), optuna.load_study(study_name=name, storage=store))
