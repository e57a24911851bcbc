"""The optimizer as Optuna's sampler: it resumes from a storage and learns from every way a trial can end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hwsearch.errors import HwsearchError
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.sampler import FAILURE, KernelSampler
from tests.tuning.synthetic import cache, write


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedSpace:
    return read_recorded(write(Path(tmp_path_factory.mktemp("cache")) / "cache.json", cache()))


def tune(study: optuna.Study, recorded: RecordedSpace, count: int) -> list[int]:
    rows = []
    for _ in range(count):
        trial = study.ask(dict(recorded.space.distributions))
        row = recorded.space.row_of(trial.params)
        assert row is not None
        rows.append(row)
        if np.isnan(recorded.times[row]):
            trial.set_user_attr(FAILURE, recorded.failures[row])
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, float(recorded.times[row]))
    return rows


def new_study(recorded: RecordedSpace, seed: int = 0) -> optuna.Study:
    return optuna.create_study(sampler=KernelSampler(recorded.space, seed))


def test_a_study_loaded_from_its_storage_proposes_what_the_unbroken_one_does(
    recorded: RecordedSpace, tmp_path: Path
) -> None:
    unbroken = tune(new_study(recorded, 4), recorded, 30)
    rows: list[int] = []
    for part in (1, 12, 17):
        study = optuna.create_study(
            study_name="kernel",
            storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.log"))),
            sampler=KernelSampler(recorded.space, 4),
            load_if_exists=True,
        )
        rows += tune(study, recorded, part)
    assert rows == unbroken and len(set(rows)) == 30


def test_study_optimize_in_threads_repeats_nothing(recorded: RecordedSpace) -> None:
    study = new_study(recorded)

    def measure(trial: optuna.Trial) -> float:
        row = recorded.space.row_of(
            {name: trial._suggest(name, d) for name, d in recorded.space.distributions.items()}
        )
        assert row is not None
        return 1.0 if np.isnan(recorded.times[row]) else float(recorded.times[row])

    study.optimize(measure, n_trials=24, n_jobs=4)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 24


def test_running_trials_are_not_proposed_again(recorded: RecordedSpace) -> None:
    study = new_study(recorded)
    tune(study, recorded, 10)
    asked = [study.ask(dict(recorded.space.distributions)).params for _ in range(6)]
    assert len({tuple(params.values()) for params in asked}) == 6


def test_a_kernel_that_fails_is_not_proposed_again_a_killed_search_is(recorded: RecordedSpace) -> None:
    for failure, again in (("CompilationFailedConfig", False), (None, True)):
        study = new_study(recorded)
        trial = study.ask(dict(recorded.space.distributions))
        if failure:
            trial.set_user_attr(FAILURE, failure)
        study.tell(trial, state=TrialState.FAIL)
        assert (study.ask(dict(recorded.space.distributions)).params == trial.params) == again


def test_a_pruned_trial_teaches_what_it_reported(recorded: RecordedSpace) -> None:
    study = new_study(recorded)
    for step in range(8):
        trial = study.ask(dict(recorded.space.distributions))
        if step % 2:
            trial.report(3.0 + step, 0)
        study.tell(trial, state=TrialState.PRUNED)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 8


def test_an_exhausted_space_and_other_studies_are_refused(recorded: RecordedSpace) -> None:
    study = new_study(recorded)
    tune(study, recorded, len(recorded))
    with pytest.raises(HwsearchError, match="have been proposed already"):
        study.ask(dict(recorded.space.distributions))
    wrong = optuna.create_study(direction="maximize", sampler=KernelSampler(recorded.space, 0))
    with pytest.raises(HwsearchError, match="one objective"):
        wrong.ask(dict(recorded.space.distributions))
    with pytest.raises(HwsearchError, match="width is not a parameter"):
        new_study(recorded).ask().suggest_int("width", 1, 8)
