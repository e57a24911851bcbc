"""A study in a database whose server may restart: what finds it away is asked again until it is back."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, ProgrammingError, SQLAlchemyError

from hwsearch.search.storage_url import reason_of

Answer = TypeVar("Answer")

PATIENCE_S = 60.0
PAUSE_S = 0.25
OPENINGS = 4
# What Optuna's cache asks of the storage below it, each a transaction of its own.
TRANSACTIONS = (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "_get_best_trial_id",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


def open_database(url: str, on_away: Callable[[str], None]) -> BaseStorage:
    """The storage of an SQLAlchemy URL; a server that goes away later is waited for, up to a minute.

    Args:
        on_away: called with the reason when a wait begins.

    Raises whatever the driver raises where it cannot be opened now.
    """
    if url.startswith("sqlite"):  # a file has no server
        return optuna.storages.get_storage(url)
    for _ in range(OPENINGS):
        try:
            return optuna.storages.get_storage(_PatientStorage(url, on_away))
        except (IntegrityError, ProgrammingError, StorageInternalError):
            time.sleep(PAUSE_S)  # another process may be making the tables just now
    return optuna.storages.get_storage(_PatientStorage(url, on_away))


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None for one in memory."""
    database = make_url(url).database
    if not database or database == ":memory:":
        return None
    return Path(database.removeprefix("file:")).resolve()


class _PatientStorage(RDBStorage):
    """Optuna's database storage, each of its transactions repeated while the server is away.

    Where the answer to a transaction is lost, nobody knows whether it was made. One that sets an attribute
    or a state may be repeated. One that creates a trial may leave a running one that nobody beats for.
    """

    def __init__(self, url: str, on_away: Callable[[str], None]) -> None:
        # A connection that died unused is replaced before it is used.
        super().__init__(url, engine_kwargs={"pool_pre_ping": True})
        self._on_away = on_away
        self._away_since: float | None = None

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        attempts = 0

        def transaction() -> bool:
            nonlocal attempts
            attempts += 1
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        try:
            return self._until_back(transaction)
        except UpdateFinishedTrialError:
            found = self.get_trial(trial_id)
            if attempts > 1 and found.state == state and found.values == values:
                return True  # the first attempt was made, and its answer lost
            raise

    def _until_back(self, transaction: Callable[[], Answer]) -> Answer:
        while True:
            try:
                answer = transaction()
            except (SQLAlchemyError, StorageInternalError) as error:
                self._pause(error)
            else:
                self._away_since = None
                return answer

    def _pause(self, error: Exception) -> None:
        """Raise StorageInternalError for what waiting does not mend, or has not mended."""
        away = _connection_error(error)
        reason, now = reason_of(away or error), time.monotonic()
        if away is None:
            raise StorageInternalError(reason) from error
        if self._away_since is None:
            self._away_since = now
            self._on_away(reason)
        if now - self._away_since > PATIENCE_S:
            raise StorageInternalError(reason) from error
        time.sleep(PAUSE_S)


def _connection_error(error: BaseException | None) -> BaseException | None:
    """What shows that the connection is to blame, not what was asked; errors that were raised while one was
    handled count too."""
    while error is not None and not isinstance(error, (InterfaceError, OperationalError)):
        error = error.__cause__ or error.__context__
    return error


def _patient(name: str) -> Callable[..., Any]:
    plain = getattr(RDBStorage, name)

    @functools.wraps(plain)
    def transaction(self: _PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self._until_back(lambda: plain(self, *arguments, **named))

    return transaction


for _name in TRANSACTIONS:
    setattr(_PatientStorage, _name, _patient(_name))
