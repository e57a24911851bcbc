"""The journal as a killed process leaves it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.search.storage.journal import mend_journal
from hwsearch.search.storage.study import open_storage


def journal_with_trials(path: Path, count: int) -> list[bytes]:
    study = optuna.create_study(storage=open_storage(str(path)), study_name="s")
    for number in range(count):
        trial = study.ask({"x": optuna.distributions.IntDistribution(0, 9)})
        study.tell(trial, float(number))
    return path.read_bytes().splitlines(keepends=True)


def test_every_torn_end_is_cut_and_optuna_reads_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    lines = journal_with_trials(path, 3)
    whole = b"".join(lines[:-1])
    for length in range(1, len(lines[-1])):
        path.write_bytes(whole + lines[-1][:length])
        message = mend_journal(path)
        assert message is not None and f":{len(lines)}:" in message
        assert path.read_bytes() == whole
    assert mend_journal(path) is None
    study = optuna.load_study(storage=open_storage(str(path)), study_name="s")
    study.tell(2, 7.0)
    again = optuna.load_study(storage=open_storage(str(path)), study_name="s")
    assert [trial.value for trial in again.trials] == [0.0, 1.0, 7.0]


@pytest.mark.parametrize("broken", [b"{torn\n", b"\n", b"[1]\n", b"\x00\x00\x00\n", b'{"op_code": "x"}\n'])
def test_a_broken_line_in_the_middle_is_refused_and_left_alone(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "study.log"
    lines = journal_with_trials(path, 2)
    content = b"".join([*lines[:2], broken, *lines[2:]])
    path.write_bytes(content)
    with pytest.raises(HwsearchError, match=r"study\.log:3: not a record"):
        mend_journal(path)
    assert path.read_bytes() == content


def test_a_lock_left_by_a_killed_writer_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    journal_with_trials(path, 1)
    lock = tmp_path / "study.log.lock"
    lock.symlink_to(path)
    assert mend_journal(path) is None
    assert not lock.is_symlink()


def test_no_journal_is_fine(tmp_path: Path) -> None:
    assert mend_journal(tmp_path / "study.log") is None
