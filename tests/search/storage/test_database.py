"""A study in PostgreSQL: waited for while its server restarts, shared, and quoted without its password."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from postgres_server import Postgres, postgres_server

from hwsearch.errors import HwsearchError
from hwsearch.search.storage import database
from hwsearch.search.storage.leases import Leases
from hwsearch.search.storage.study import open_storage
from tests.conftest import SMALL_SPACE


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Postgres]:
    """One that is ours to stop and kill; `postgres` says whether there can be one."""
    with postgres_server() as own:
        yield own


def new_study(server: Postgres, name: str, told: list[str] | None = None) -> optuna.Study:
    storage = open_storage(server.url(), warn=(told if told is not None else []).append)
    return optuna.create_study(study_name=name, storage=storage, load_if_exists=True)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_restarts_is_waited_for(server: Postgres, end: str) -> None:
    """At every moment of a trial's life; nothing that was told is lost or there twice."""
    told: list[str] = []
    study = new_study(server, f"restart by {end}", told)
    leases = Leases(study, "me", alone=False)
    depth = IntDistribution(0, 1000)
    kept: list[int] = []

    def restart() -> None:
        for _ in range(3):
            before, heard = len(kept), len(told)
            while len(kept) < before + 5:
                time.sleep(0.01)
            getattr(server, end)()
            away = time.monotonic()  # on a busy machine the study may take a while to ask
            while len(told) == heard and time.monotonic() - away < 5:
                time.sleep(0.01)
            server.start()

    restarting = threading.Thread(target=restart, daemon=True)
    restarting.start()
    while restarting.is_alive():
        leases.recover()
        trial = leases.begin({"depth": len(kept)}, {"depth": depth}, {"shape": str(len(kept))})
        if trial is None:  # made before the connection broke, and asked for again
            continue
        trial.set_user_attr("seconds", 0.5)
        study.tell(trial, float(len(kept)))
        kept.append(trial.number)
    leases.recover()
    trials = new_study(server, f"restart by {end}").trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert [trial.params["depth"] for trial in complete] == list(range(len(kept)))
    assert [trial.number for trial in complete] == kept
    assert all(trial.values == [trial.params["depth"]] for trial in complete)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert told and all("waiting up to 60 s" in line and server.password not in line for line in told)


def test_a_server_that_stays_away_is_one_error_after_a_while(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 1.0)
    study = new_study(server, "away")
    server.stop()
    begun = time.monotonic()
    with pytest.raises(StorageInternalError) as told:
        study.set_user_attr("a", 1)
    assert 1.0 < time.monotonic() - begun < 45
    assert server.password not in str(told.value) and "connection" in str(told.value)
    server.start()
    study.set_user_attr("a", 1)
    assert study.user_attrs["a"] == 1


def test_an_answer_that_was_lost_is_no_second_tell(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(server, "lost answer")
    trial, other = study.ask(), study.ask()
    tell, answers = RDBStorage.set_trial_state_values, iter([True, False])

    def lose_the_first_answer(*arguments: object) -> bool:
        done = tell(*arguments)  # type: ignore[arg-type]
        if next(answers, False):
            study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
            raise StorageInternalError from database.OperationalError(
                "commit", {}, Exception("server closed")
            )
        return done

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", lose_the_first_answer)
    study.tell(trial, 1.5)
    assert study.trials[0].values == [1.5]
    study.tell(other, 2.5)
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.5])


def test_of_two_that_end_a_trial_at_once_one_does(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes when the first has seen that it runs and has not written yet. SQLite lets both."""
    study, other = (new_study(server, "two ends") for _ in range(2))
    trial_id = study.ask()._trial_id
    backend, ended = study._storage._backend, []  # type: ignore[attr-defined]
    see = backend.check_trial_is_updatable

    def fail() -> None:
        try:
            ended.append(other._storage.set_trial_state_values(trial_id, TrialState.FAIL))
        except UpdateFinishedTrialError:
            ended.append(False)

    second = threading.Thread(target=fail)

    def be_overtaken(*seen: object) -> None:
        see(*seen)
        if second.ident is None:
            second.start()
            second.join(0.5)

    monkeypatch.setattr(backend, "check_trial_is_updatable", be_overtaken)
    study._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.5])
    second.join()
    assert ended == [False] and study.trials[0].values == [1.5]


def test_what_is_asked_wrongly_is_not_asked_again(server: Postgres) -> None:
    study = new_study(server, "wrong")
    begun = time.monotonic()
    with pytest.raises(StorageInternalError, match="too long"):
        study.set_user_attr("a" * 600, 1)
    assert time.monotonic() - begun < 45


def test_a_server_that_is_not_there_is_one_message_at_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    begun = time.monotonic()
    with pytest.raises(
        HwsearchError, match=r"--storage postgresql://me:\*\*\*@/db.*: cannot be opened: "
    ) as told:
        open_storage(f"postgresql://me:hunter2@/db?host={tmp_path}")
    assert "hunter2" not in str(told.value) and "\n" not in str(told.value)
    assert time.monotonic() - begun < 45


def test_two_first_runs_share_a_new_database(server: Postgres, tmp_path: Path) -> None:
    """They make the tables, the study and its trials at the same time."""
    (tmp_path / "small.yaml").write_text(SMALL_SPACE)
    url = server.new_database()
    command = [sys.executable, "-m", "hwsearch", "run", "--space", "small.yaml", "--storage", url]
    command += ["--trials", "12", "--out"]
    runs = [
        subprocess.Popen([*command, f"run{n}"], cwd=tmp_path, stdout=-1, stderr=subprocess.STDOUT, text=True)
        for n in range(2)
    ]
    for each in runs:
        output, _ = each.communicate(timeout=120)
        assert each.returncode == 0, output
        assert server.password not in output
    study = optuna.load_study(study_name="small", storage=open_storage(url))
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    shapes = [trial.user_attrs["shape_hash"] for trial in complete]
    assert len(set(shapes)) == len(shapes) == 12
    for path in tmp_path.glob("run*/**/*"):
        assert not path.is_file() or server.password.encode() not in path.read_bytes()
