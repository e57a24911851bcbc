"""A storage URL is quoted without its password, however it is written and whoever quotes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.search.storage_url import is_one_file, reason_of, without_password, without_password_of
from hwsearch.search.study import claimed_storage, open_storage


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("mysql://me:s3cr/et@localhost/x", "mysql://me:***@localhost/x"),
        ("postgresql://me:s3 cret@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me:secret/x", "postgresql://me:***/x"),
        ("postgresql://host:5432/x", "postgresql://host:5432/x"),
        ("see postgresql://host:5432: no answer", "see postgresql://host:5432: no answer"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:1/db",
        "postgresql://me:hun@hunter2@127.0.0.1:1/db",
        "postgresql://me:hunter2/db",  # no host: a driver takes it for a port, and names it
        "postgresql://me@127.0.0.1:1/db?password=hunter2",
        "mysql+nosuchdriver://me:hunter2@127.0.0.1:1/db",
        "nosuchdb://me:hunter2@127.0.0.1:1/db",
        "redis://:hunter2@127.0.0.1:1/0",
    ],
)
def test_no_driver_tells_a_password(url: str) -> None:
    with pytest.raises(HwsearchError, match="cannot be opened") as told:
        open_storage(url)
    error: BaseException | None = told.value
    assert "hunter2" not in str(error) and "\n" not in str(error)
    assert told.value.__cause__ is None and told.value.__suppress_context__


def test_what_a_driver_takes_for_a_host_is_hidden() -> None:
    said = 'could not translate host name "part@host" or port "w0rd" to an address'
    assert "part@" not in without_password_of("postgresql://me:first@part@host/db", said)
    assert "w0rd" not in without_password_of("postgresql://me:w0rd/db", said)
    assert without_password_of("postgresql://host:5432/db", "port 5432 refused") == "port 5432 refused"
    assert "s p" not in without_password_of("postgresql://me:s%20pace@host/db", "login 's pace' failed")


def test_the_reason_is_the_drivers_own_and_one_line() -> None:
    driver = OSError("connection refused\nIs the server running?")
    outer = RuntimeError("An exception is raised during the commit.")
    outer.__cause__ = driver
    assert reason_of(outer) == "connection refused"
    assert reason_of(ValueError()) == "ValueError"


def test_redis_is_refused_since_its_snapshots_are_pickled() -> None:
    with pytest.raises(HwsearchError, match="pickled snapshots"):
        open_storage("redis://localhost:6379/0")


@pytest.mark.parametrize("name", ["study.log", "sqlite:///study.db"])
def test_a_storage_that_is_a_file_is_for_one_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_one_file(name)
    busy = pytest.raises(HwsearchError, match="another hwsearch run is using this")
    with claimed_storage(name, print), busy, claimed_storage(name, print):
        pass
    with claimed_storage(name, print):
        pass


def test_a_database_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/nowhere/study.db"
    with pytest.raises(HwsearchError, match="no such folder"), claimed_storage(url, print):
        pass
