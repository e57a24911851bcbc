"""The Optuna sampler of the measured rung: it reads a study's trials and asks the ladder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.search.candidates import Candidates, Floats, with_latency
from hwsearch.search.measured.ladder import Ladder
from hwsearch.search.measured.residual import Measured, Rows, shape_features
from hwsearch.search.objectives import limits, objectives
from hwsearch.search.parameters import Key, candidate_values, key_of, keys, params_of
from hwsearch.search.samplers import WholeShapeSampler
from hwsearch.search.storage.leases import FAILURE, SHAPE_HASH
from hwsearch.space.search_space import SearchSpace

MEASURED_S = "measured_s"
"""Attribute of a measured trial: seconds by GPU, weighted geometric mean over the workloads."""

MEASURED_ERROR = "measured_error"
"""Attribute of a measured trial: standard error by GPU, relative."""

# What one measurement costs on a device: a process that starts and builds the model, and passes to be timed.
START_S, PASSES = 10.0, 100
# Timing a shape again, in another process, differs by so much whatever the samples say.
LEAST_ERROR = 0.01


@dataclass(frozen=True)
class _Reading:
    """Of one trial.

    Attributes:
        row: of the candidate that it is of, None where it is of none.
        seconds, error: on each measured GPU, nan where it was not measured; empty where it is not complete.
    """

    row: int | None
    seconds: list[float]
    error: list[float]


class MeasuredSampler(WholeShapeSampler):
    """Proposes what is worth measuring next, given what the study's trials have measured.

    A trial is read by how it ended:

        COMPLETE                 measured: its attributes MEASURED_S and MEASURED_ERROR hold seconds and
                                 relative error by GPU; not proposed again, whatever it holds
        FAIL with FAILURE set    cannot be measured; not proposed again
        FAIL without             nothing is known of it; it may be proposed again
        RUNNING                  under way; not proposed, and counted as if it were to meet what is believed

    Args:
        candidates: the whole grid, priced. Those whose corrected times break a limit are worth nothing.
        gpus: names of the basket's GPUs that are measured; the others keep their predicted times.
    """

    def __init__(
        self, space: SearchSpace, candidates: Candidates, reference: Candidates, gpus: Collection[str]
    ) -> None:
        super().__init__(candidate_values(space.file.shape))
        self._names = [gpu.name for gpu in space.gpus if gpu.name in gpus]
        self._gpus = [row for row, gpu in enumerate(space.gpus) if gpu.name in gpus]
        self._keys = keys(candidates.shapes)
        self._rows = {key: row for row, key in enumerate(self._keys)}
        self._space, self._candidates, self._reference = space, candidates, reference
        own = self._rows.get(keys(reference.shapes)[0])
        is_candidate = own is not None and candidates.shapes.shape(own) == reference.shapes.shape(0)
        # In a space of one shape its trial, which has no parameters either, would pass for that shape's.
        self._foreign = None if is_candidate else reference.shapes.shape(0).hash()
        predicted_s = candidates.latency[self._gpus]
        passes_s = PASSES * len(space.workloads) * predicted_s.sum(axis=0)
        self._ladder = Ladder(
            predicted_s,
            shape_features(candidates.shapes),
            self._losses,
            len(self._gpus) * START_S + passes_s,
        )
        self._study: Study | None = None
        self._readings: dict[int, _Reading] = {}  # of the study's finished trials, which never change

    def propose(self, study: Study, besides: int | None = None) -> Key | None:
        """The shape to measure next, as if trial number `besides` were not there; None where no shape
        promises anything any more."""
        measured, pending, failed = self._read(study, besides)
        row = self._ladder.next_row(measured, pending, failed)
        return None if row is None else self._keys[row]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises HwsearchError where no shape promises anything any more."""
        key = self.propose(study, besides=trial.number)
        if key is None:
            raise HwsearchError("no shape that is left promises anything")
        return params_of(key, search_space)

    def _read(self, study: Study, besides: int | None) -> tuple[Measured, list[int], list[int]]:
        """What was measured, and rows that are pending and failed."""
        if study is not self._study:
            self._study, self._readings = study, {}
        measured: dict[int, _Reading] = {}
        pending, failed = [], []
        trials = study.get_trials(deepcopy=False)
        # In the order in which they ended, since the ladder learns as measurements come in.
        trials = sorted(trials, key=lambda trial: trial.datetime_complete or datetime.max)
        for trial in trials:
            reading = self._reading(trial)
            row = reading.row
            if row is None or trial.number == besides:
                continue
            if trial.state == TrialState.COMPLETE:
                measured[row] = reading
            elif not trial.state.is_finished():
                pending.append(row)
            elif FAILURE in trial.user_attrs:
                failed.append(row)
        shape = (len(measured), len(self._names))
        seconds = np.array([reading.seconds for reading in measured.values()], dtype=float)
        error = np.array([reading.error for reading in measured.values()], dtype=float)
        rows = np.array(list(measured), dtype=np.int64)
        return Measured(rows, seconds.reshape(shape).T, error.reshape(shape).T), pending, failed

    def _reading(self, trial: FrozenTrial) -> _Reading:
        if trial.number in self._readings:
            return self._readings[trial.number]
        key = key_of(trial.params, self._values)
        foreign = self._foreign is not None and trial.user_attrs.get(SHAPE_HASH) == self._foreign
        row = None if key is None or foreign else self._rows.get(key)
        seconds: list[float] = []
        error: list[float] = []
        if row is not None and trial.state == TrialState.COMPLETE:
            found, errors = trial.user_attrs.get(MEASURED_S, {}), trial.user_attrs.get(MEASURED_ERROR, {})
            seconds = [found.get(name, np.nan) for name in self._names]
            error = [max(errors.get(name, 0.0), LEAST_ERROR) for name in self._names]
        reading = _Reading(row, seconds, error)
        if trial.state.is_finished():
            self._readings[trial.number] = reading
        return reading

    def _losses(self, latency_s: Floats, rows: Rows) -> Floats:
        """Of candidates that take so many seconds on the measured GPUs; inf where they break a limit."""
        candidates = self._candidates.take(rows)
        latency = candidates.latency.copy()
        latency[self._gpus] = latency_s
        candidates = with_latency(self._space, candidates, latency)
        found = objectives(self._space, candidates, self._reference)
        losses = np.stack([objective.losses for objective in found], axis=1)
        for excess in limits(self._space, candidates, self._reference).values():
            losses[excess > 0] = np.inf
        return losses
