"""The Optuna study behind a run: opened, checked to be ours, and told what was found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.search.journal import claim_journal

Direction = Literal["minimize", "maximize"]
JOURNAL_SUFFIX = ".log"
IDENTITY = "hwsearch identity"
OWNER = "owner"
UNMARKED_TRIAL_S = 60.0
PREDICTED_OF = "another space, other GPU profiles or another version of the cost model"

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`: a journal file that ends in .log, a database, or redis.

    Raises HwsearchError without the URL's password where it cannot be opened.
    """
    try:
        if is_journal(url):
            # Absolute, since Optuna's lock is a link to this very path.
            return JournalStorage(JournalFileBackend(str(Path(url).resolve())))
        if url.startswith("redis"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return JournalStorage(JournalRedisBackend(url))
        return optuna.storages.get_storage(url)
    except Exception as error:  # every driver has exceptions of its own
        reason = without_password(str(error)).splitlines()[0] if str(error) else type(error).__name__
        raise HwsearchError(
            f"--storage {without_password(url)}: cannot be opened: {reason}; accepted: sqlite:///FILE, postgresql://...,"
            " mysql://..., redis://... or a journal file ending in .log"
        ) from error


@contextmanager
def claimed_storage(url: str, warn: Callable[[str], None]) -> Iterator[BaseStorage]:
    """The storage at `url`; a journal file is held for this process alone and mended first."""
    if not is_journal(url):
        yield open_storage(url)
        return
    # Resolved as Optuna does, so that two names of one journal are one claim.
    with claim_journal(Path(url).resolve(), warn):
        yield open_storage(url)


def is_journal(url: str) -> bool:
    return "://" not in url and url.endswith(JOURNAL_SUFFIX)


def without_password(text: str) -> str:
    """A URL, or a message that quotes one, without its secrets; whatever stands before the last @ is one."""
    text = re.sub(r"(://[^:/@\s]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)(password|passwd|pwd)=[^&\s]*", r"\1=***", text)


def check_study(storage: BaseStorage, name: str, identity: str, of: str = PREDICTED_OF) -> None:
    """Raise HwsearchError where `storage` holds a study of this name that is not of `identity`, or cannot
    be replayed."""
    try:
        if name not in optuna.get_all_study_names(storage):
            return
        study = optuna.load_study(study_name=name, storage=storage)
        found, trials = study.user_attrs.get(IDENTITY), study.get_trials(deepcopy=False)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise HwsearchError(f"study {name}: its storage cannot be replayed: {error!r}") from error
    except optuna.exceptions.OptunaError as error:
        raise HwsearchError(
            f"study {name}: its storage cannot be read: {without_password(str(error))}"
        ) from error
    if found != identity and (found is not None or trials):
        raise HwsearchError(
            f"study {name}: belongs to {of} ({found}, this run is {identity});"
            " take another --out or --storage, or another name for the space"
        )


def open_study(
    storage: BaseStorage,
    name: str,
    identity: str,
    objectives: Mapping[str, Direction],
    sampler: BaseSampler,
    pruner: BasePruner | None = None,
    of: str = PREDICTED_OF,
) -> Study:
    """Create the study, or load it where it exists and has the same identity.

    Args:
        objectives: direction by name, in order.
        of: what a study of this name with another identity belongs to, for the message.

    Raises HwsearchError as `check_study` does.
    """
    check_study(storage, name, identity, of)
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    else:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=list(objectives.values()),
            load_if_exists=True,
        )
    if IDENTITY not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(objectives))
        study.set_user_attr(IDENTITY, identity)
    return study


def complete_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def ask(study: Study, distributions: dict[str, BaseDistribution], owner: str) -> Trial:
    """A new trial, marked with who runs it; one whose sampler fails is not left running."""
    try:
        trial = study.ask(distributions)
    except BaseException:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if running and not running[-1].params and OWNER not in running[-1].user_attrs:
            study.tell(running[-1].number, state=TrialState.FAIL)
        raise
    trial.set_user_attr(OWNER, owner)
    return trial


def fail_stale_trials(study: Study, owner: str | None) -> None:
    """Fail the trials that an earlier, killed process left running.

    `owner` is the run folder, which one process at a time can hold; None where nobody else can use the
    storage. A trial that was killed before it was marked belongs to nobody; after a while nobody can be
    about to mark it.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        found = trial.user_attrs.get(OWNER)
        age_s = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        if owner is None or found == owner or (found is None and age_s > UNMARKED_TRIAL_S):
            study.tell(trial.number, state=TrialState.FAIL)


def tell(
    study: Study,
    trial: Trial,
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
