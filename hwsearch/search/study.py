"""The Optuna study behind a run: opened, checked to be ours, and told what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.search.journal import claim_file, claim_journal
from hwsearch.search.storage_url import (
    is_journal,
    is_one_file,
    reason_of,
    without_password,
    without_password_of,
)

Direction = Literal["minimize", "maximize"]
IDENTITY = "hwsearch identity"
PREDICTED_OF = "another space, other GPU profiles or another version of the cost model"

optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(url: str, warn: Callable[[str], None] = lambda message: None) -> BaseStorage:
    """The storage at `url`: a journal file that ends in .log, or a database.

    Args:
        warn: told when a database's server goes away and is waited for.

    Raises HwsearchError without the URL's password where it cannot be opened.
    """
    shown = f"--storage {without_password(url)}"
    try:
        if is_journal(url):
            # Absolute, since Optuna's lock is a link to this very path.
            return JournalStorage(JournalFileBackend(str(Path(url).resolve())))
        if url.startswith("redis"):
            raise ValueError("Optuna keeps pickled snapshots there, which run code when they are read")
        from hwsearch.search.database import PATIENCE_S, open_database  # journals need no SQLAlchemy

        def on_away(reason: str) -> None:
            warn(f"{shown}: {reason}; waiting up to {PATIENCE_S:.0f} s for it")

        return open_database(url, on_away)
    except Exception as error:  # every driver has exceptions of its own
        reason = without_password_of(url, reason_of(error))
        # Without the driver's exception, whose text may quote the password.
        raise HwsearchError(
            f"{shown}: cannot be opened: {reason};"
            " accepted: sqlite:///FILE, postgresql://..., mysql://... or a journal file ending in .log"
        ) from None


@contextmanager
def claimed_storage(url: str, warn: Callable[[str], None]) -> Iterator[BaseStorage]:
    """The storage at `url`; one that is a file is held for this process alone, and a journal mended first."""
    with ExitStack() as held:
        if is_journal(url):
            # Resolved as Optuna does, so that two names of one journal are one claim.
            held.enter_context(claim_journal(Path(url).resolve(), warn))
        elif is_one_file(url) and (path := _sqlite_file(url)) is not None:
            held.enter_context(claim_file(path, "database"))
        yield open_storage(url, warn)


def _sqlite_file(url: str) -> Path | None:
    from hwsearch.search.database import sqlite_file

    return sqlite_file(url)


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
    except OptunaError as error:
        raise HwsearchError(f"study {name}: its storage cannot be read: {reason_of(error)}") from error
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
        check_study(storage, name, identity, of)  # another process may have made it at the same moment
    return study


def cannot_be_written(error: OptunaError, kept: str) -> HwsearchError:
    return HwsearchError(f"the study cannot be written: {reason_of(error)}; {kept}")


def complete_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


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
