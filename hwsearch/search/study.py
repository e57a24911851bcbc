"""The Optuna study behind a run: opened, checked to be ours, and told what was found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError

Direction = Literal["minimize", "maximize"]
IDENTITY = "hwsearch space"


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`: a journal file that ends in .log, a database, or redis.

    Raises HwsearchError without the URL's password where it cannot be opened.
    """
    try:
        if url.endswith(".log"):
            # Absolute, since Optuna's lock is a link to this very path.
            return JournalStorage(JournalFileBackend(str(Path(url).resolve())))
        if url.startswith("redis"):
            return JournalStorage(JournalRedisBackend(url))
        return optuna.storages.get_storage(url)
    except Exception as error:  # every driver has exceptions of its own
        reason = without_password(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise HwsearchError(
            f"--storage {without_password(url)}: cannot be opened: {reason}; accepted: sqlite:///FILE, postgresql://...,"
            " mysql://..., redis://... or a journal file ending in .log"
        ) from error


def without_password(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


def open_study(
    storage: BaseStorage,
    name: str,
    identity: str,
    objectives: Mapping[str, Direction],
    sampler: BaseSampler,
) -> Study:
    """Create the study, or load it where it exists and belongs to the same space.

    Args:
        objectives: direction by name, in order.

    Raises HwsearchError for a study of another space.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        else:
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                sampler=sampler,
                directions=list(objectives.values()),
                load_if_exists=True,
            )
        found = study.user_attrs.get(IDENTITY)
        if found is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, identity)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(objectives))
            found = identity
    except (KeyError, TypeError, AssertionError) as error:
        raise HwsearchError(f"study {name}: its storage cannot be replayed: {error!r}") from error
    if found != identity:
        raise HwsearchError(
            f"study {name}: belongs to another space ({found}, this one is {identity});"
            " take another --storage, or another name for the space"
        )
    return study


def complete_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def fail_stale_trials(study: Study) -> int:
    """Fail trials that a killed coordinator left running; only for a storage that nobody shares."""
    stale = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in stale:
        study.tell(trial.number, state=TrialState.FAIL)
    return len(stale)


def record(
    study: Study,
    trial: optuna.Trial,
    values: Sequence[float],
    constraints: Mapping[str, float],
    facts: Mapping[str, Any],
) -> None:
    """Finish a trial with its values, its limits (0 or less keeps to them) and what a reader wants to see."""
    for name, excess in constraints.items():
        trial.set_constraint(name, excess)
    for name, fact in facts.items():
        trial.set_user_attr(name, fact)
    study.tell(trial, list(values))
