"""The optimizer as an Optuna sampler, so that storages, resuming and the dashboard work."""

from __future__ import annotations

import threading
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.tuning.proposals import Optimizer, Settings
from hwsearch.tuning.tuning_space import TuningSpace
from hwsearch.tuning.weights import scalar, weights_of

FAILURE = "failure"
"""The user attribute that says why a configuration does not run, on a trial told as FAIL."""

MEASURED = "measured"
"""The user attribute with a value or null for each objective, on a trial of several told as PRUNED."""


class KernelSampler(BaseSampler):
    """Proposes feasible configurations of one kernel, none that the study holds already.

    What a trial teaches depends on how it ended:

        COMPLETE                 its values, positive and to be minimised, as a time is
        PRUNED                   its last intermediate value; without one, that it is among the slowest.
                                 Of several objectives, for which Optuna keeps none, what MEASURED says
        FAIL with FAILURE set    the configuration does not run: among the slowest, so are its neighbours
        FAIL without             nothing (the search was killed, not the kernel); it may be proposed again
        RUNNING                  it is under way: not proposed, nor is what it will tell of

    Proposals follow from the seed and the trials alone: a study that is loaded goes on where it was.

    With several objectives an optimizer for each alone and one for all of them propose in turn, and
    every one learns from every trial (`weights.py`).

        study = optuna.create_study(sampler=KernelSampler(space, seed=0))
        trial = study.ask(space.distributions)
        study.tell(trial, measure(trial.params))
    """

    def __init__(
        self, space: TuningSpace, seed: int, settings: Settings | None = None, objectives: int = 1
    ) -> None:
        self._space = space
        self._weights = weights_of(objectives)
        self._optimizers = [Optimizer(space, seed, settings or Settings()) for _ in self._weights]
        # The first values known in full, from which all others are counted.
        self._reference: list[float] | None = None
        self._absorbed: set[int] = set()
        # Of trials by number, as another thread may not yet have written their parameters to the study.
        self._proposed: dict[int, int] = {}
        self._first_open = 0
        self._lock = threading.Lock()  # for study.optimize(n_jobs=...)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises HwsearchError where all configurations have been proposed."""
        objectives = len(self._weights[0])
        if study.directions != [StudyDirection.MINIMIZE] * objectives:
            one_time = "one objective, a time to be minimised"
            raise HwsearchError(
                f"a kernel's study has {one_time if objectives == 1 else f'{objectives}, to be minimised'}"
            )
        with self._lock:
            pending = self._absorb(study, besides=trial.number)
            row = self._optimizers[trial.number % len(self._optimizers)].propose(pending)
            if row is None:
                raise HwsearchError(f"all {len(self._space):,} configurations have been proposed already")
            self._proposed[trial.number] = row
        return self._space.configuration(row)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise HwsearchError(
            f"{param_name} is not a parameter of this kernel, which has {', '.join(self._space.names)};"
            " ask with the space's own distributions"
        )

    def _absorb(self, study: Study, besides: int) -> set[int]:
        """Tell the optimizer of every trial that has ended; the rows of the others."""
        trials = study.get_trials(deepcopy=False)
        while self._first_open < len(trials) and trials[self._first_open].number in self._absorbed:
            self._absorbed.remove(self._first_open)
            self._first_open += 1
        pending = set()
        for trial in trials[self._first_open :]:
            row = self._space.row_of(trial.params)
            if not trial.state.is_finished():
                row = self._proposed.get(trial.number) if row is None else row
                if row is not None and trial.number != besides:
                    pending.add(row)
            elif trial.number not in self._absorbed:
                self._absorbed.add(trial.number)
                self._proposed.pop(trial.number, None)
                if row is not None and _teaches(trial):
                    self._tell(row, _values(trial, len(self._weights[0])))
        return pending

    def _tell(self, row: int, values: list[float | None]) -> None:
        known = [value for value in values if value is not None]
        if self._reference is None and len(known) == len(values):
            self._reference = known
        for optimizer, weights in zip(self._optimizers, self._weights, strict=True):
            optimizer.tell(row, scalar(values, self._reference or [], weights))


def _teaches(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL or FAILURE in trial.user_attrs


def _values(trial: FrozenTrial, objectives: int) -> list[float | None]:
    if trial.state == TrialState.COMPLETE:
        return list(trial.values)
    if trial.state == TrialState.PRUNED and objectives > 1:
        return list(trial.user_attrs.get(MEASURED, [None] * objectives))
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return [trial.intermediate_values[max(trial.intermediate_values)]]
    return [None] * objectives
