"""The Optuna study of one kernel: opened by one tuner at a time, and what its trials say.

Several studies share a journal file: one for each list of configurations, workload, objective and version
of the compiler, since times of two versions do not compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.files import make_folder
from hwsearch.measure.race import FASTER
from hwsearch.search.journal import claim_journal
from hwsearch.search.leases import Leases
from hwsearch.search.study import open_storage
from hwsearch.tuning.kernel import Config
from hwsearch.tuning.sampler import FAILURE, MEASURED, KernelSampler
from hwsearch.tuning.tuning_space import TuningSpace

# User attributes of a trial.
SECONDS, JOULES, VERDICT, CODE = "seconds", "joules", "verdict", "code"
# What it cost: compiling, checking, and all that was done on the device, checking included.
COMPILE_S, CHECK_S, TRIAL_S = "compile_s", "check_s", "trial_s"


@dataclass(frozen=True)
class Record:
    """What one trial found.

    Attributes:
        row: of the space.
        seconds, joules: None where not measured; both where the trial failed.
        kept: neither failed nor dropped as too slow.
        faster: it beat the best of its time in a race; so did the first.
        code: digest of its machine code, empty if unknown.
        failure: why it failed; empty if it did not.
    """

    row: int
    seconds: float | None
    joules: float | None
    kept: bool
    faster: bool
    code: str
    failure: str


class KernelStudy:
    """Asks for configurations and remembers what became of them."""

    def __init__(self, study: Study, space: TuningSpace) -> None:
        self._study = study
        self._space = space
        self.records: list[Record] = []
        for trial in study.get_trials(deepcopy=False):
            if (record := _record(trial, space)) is not None:
                self.records.append(record)
        self._waiting = 0

    @property
    def objectives(self) -> int:
        return len(self._study.directions)

    @property
    def exhausted(self) -> bool:
        """Whether every configuration is known or under way."""
        return len({record.row for record in self.records}) + self._waiting >= len(self._space)

    def begin_with(self, configs: Sequence[Config]) -> None:
        """Ask for these first, as far as nothing is known of them."""
        known: set[int | None] = {record.row for record in self.records}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            known.add(self._space.row_of(trial.system_attrs.get("fixed_params", {})))
        for config in configs:
            if (row := self._space.row_of(config)) is not None and row not in known:
                known.add(row)
                self._study.enqueue_trial(dict(config))

    def ask(self) -> Trial:
        trial = self._study.ask(dict(self._space.distributions))
        self._waiting += 1
        return trial

    def tell(
        self,
        trial: Trial,
        seconds: float,
        joules: float | None,
        values: list[float | None],
        complete: bool,
        facts: Mapping[str, Any],
    ) -> None:
        """A configuration that runs.

        Args:
            values: of the objectives; None where nothing is known.
            complete: False: it was dropped as too slow, and `values` are estimates.
        """
        self._set(trial, {SECONDS: seconds, JOULES: joules, **facts})
        known = [value for value in values if value is not None]
        if complete and len(known) == len(values):
            self._study.tell(trial, known)
        else:
            if self.objectives > 1:
                trial.set_user_attr(MEASURED, values)
            elif known:
                trial.report(known[0], 0)
            self._study.tell(trial, state=TrialState.PRUNED)
        self._end(trial)

    def tell_failed(self, trial: Trial, reason: str, facts: Mapping[str, Any]) -> None:
        self._set(trial, {FAILURE: reason, **facts})
        self._study.tell(trial, state=TrialState.FAIL)
        self._end(trial)

    def give_back(self, trial: Trial) -> None:
        """One that was never measured: it may be proposed again."""
        self._study.tell(trial, state=TrialState.FAIL)
        self._waiting -= 1

    def _set(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        for name, fact in facts.items():
            trial.set_user_attr(name, fact)

    def _end(self, trial: Trial) -> None:
        self._waiting -= 1
        record = _record(self._study.get_trials(deepcopy=False)[trial.number], self._space)
        assert record is not None
        self.records.append(record)


@contextmanager
def opened(
    folder: Path,
    name: str,
    identity: object,
    space: TuningSpace,
    objectives: int,
    warn: Callable[[str], None],
) -> Iterator[KernelStudy]:
    """The study `name` in folder/<name>.log, for this process alone; trials of a killed one are given back.

    Raises HwsearchError where another process holds it, its journal is broken, or the disk is full.
    """
    make_folder(folder)
    journal = folder.resolve() / f"{name}.log"
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
    with claim_journal(journal, warn):
        try:
            study = optuna.create_study(
                study_name=f"{name} {digest}",
                storage=open_storage(str(journal)),
                sampler=KernelSampler(space, seed=0, objectives=objectives),
                directions=["minimize"] * objectives,
                load_if_exists=True,
            )
            Leases(study, str(journal), alone=True).recover()
            _refuse_strangers(study, space)
            yield KernelStudy(study, space)
        except OptunaError as error:
            raise HwsearchError(f"{journal}: {error}; finished trials are kept") from error
        except BrokenPipeError:  # whoever reads the progress has left
            raise
        except OSError as error:
            reason = error.strerror or error
            raise HwsearchError(f"{journal}: cannot write: {reason}; finished trials are kept") from error


def _refuse_strangers(study: Study, space: TuningSpace) -> None:
    """Whoever may write to the journal must not choose what is compiled: what is not in the space fails."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if space.row_of(trial.system_attrs.get("fixed_params", {})) is None:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _record(trial: FrozenTrial, space: TuningSpace) -> Record | None:
    row = space.row_of(trial.params)
    facts = trial.user_attrs
    # Killed before it was told, a trial may have its seconds already; it is measured again.
    known = FAILURE in facts if trial.state == TrialState.FAIL else SECONDS in facts
    if row is None or not trial.state.is_finished() or not known:
        return None
    return Record(
        row,
        facts.get(SECONDS),
        facts.get(JOULES),
        trial.state == TrialState.COMPLETE,
        facts.get(VERDICT) == FASTER,
        facts.get(CODE, ""),
        facts.get(FAILURE, ""),
    )
