"""`hwsearch run` as a user meets it: the real command, killed, interrupted, pointed at the wrong place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pandas as pd
import pytest

from hwsearch.search.storage.study import open_storage
from tests.conftest import SMALL_SPACE, Cli

# Ten aliases a line, seven lines: ten million values.
BOMB = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7)
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_ends_with_a_table_and_winners(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    done = cli("run", "--space", small_space)
    assert done.returncode == 0, done.stderr
    assert "winner 0" in done.stdout and "reference" in done.stdout and "predicted" in done.stdout
    assert "predicting 2/2" in done.stderr
    run = tmp_path / "runs" / "small"
    for name in (
        "run.yaml",
        "study.log",
        "candidates.parquet",
        "front.csv",
        "report.html",
        "winners/0/shape.yaml",
    ):
        assert (run / name).is_file(), name
    page = (run / "report.html").read_text()
    assert "<svg" in page and pd.read_csv(run / "front.csv")["shape"][0] in page
    again = cli("run", "--space", small_space)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert cli("report", run).stdout.strip() in done.stdout
    (run / "summary.json").unlink()
    assert cli("report", run).returncode == 2


def start(space: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hwsearch", "run", "--space", space, "--out", folder, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_trials(folder: Path, count: int) -> None:
    journal = folder / "study.log"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b'"op_code":6') < count:
        assert time.monotonic() < deadline, "the run records nothing"
        time.sleep(0.005)


def complete(folder: Path) -> list[str]:
    study = optuna.load_study(storage=open_storage(str(folder / "study.log")), study_name="small")
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return [trial.user_attrs["shape"] for trial in finished]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_loses_no_finished_trial(
    cli: Cli, small_space: Path, tmp_path: Path, signal_number: int
) -> None:
    folder = tmp_path / "run"
    stopped = start(small_space, folder, "--sampler", "tpe", "--trials", "100")
    wait_for_trials(folder, 5)
    stopped.send_signal(signal_number)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    # A line that only half reached the disk, as a kill in the middle of a write leaves it.
    with open(folder / "study.log", "ab") as journal:
        journal.write(b'{"op_code":')
    before = complete_in_whole_lines(folder)
    assert len(before) >= 5
    done = cli(
        "run", "--space", small_space, "--out", folder, "--sampler", "tpe", "--trials", len(before) + 10
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tore the last line") == 1
    shapes = complete(folder)
    assert shapes[: len(before)] == before
    assert len(shapes) == len(set(shapes)) == len(before) + 10


def complete_in_whole_lines(folder: Path) -> list[str]:
    """Finished trials as Optuna reads them from a copy of the journal without its torn end."""
    copy = folder.parent / "copy"
    copy.mkdir()
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    (copy / "study.log").write_bytes(b"".join(line for line in lines if line.endswith(b"\n")))
    return complete(copy)


def test_two_runs_do_not_share_a_folder(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(small_space, folder, "--sampler", "tpe", "--trials", "100000")
    wait_for_trials(folder, 1)
    second = cli("run", "--space", small_space, "--out", folder, "--sampler", "tpe", "--trials", "100000")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert second.returncode == 2 and "another hwsearch run is using this folder" in second.stderr


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    """One clear message, exit status 2, no traceback."""
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("hwsearch: ") == 1
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_run_is_left_intact(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli("run", "--space", small_space, "--out", folder).returncode == 0
    before = contents(folder)
    for arguments, said in (
        (("--seed", "1"), "another seed (0; now 1)"),
        (("--gpus", "l4"), "basket was {"),
        (("--sampler", "tpe"), "another sampler"),
    ):
        refused(cli("run", "--space", small_space, "--out", folder, *arguments), said)
    small_space.write_text(SMALL_SPACE.replace("4M", "5M"))
    refused(cli("run", "--space", small_space, "--out", folder), "another space_file")
    assert contents(folder) == before


def test_a_broken_journal_is_left_intact(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli("run", "--space", small_space, "--out", folder).returncode == 0
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    (folder / "study.log").write_bytes(b"".join([*lines[:9], b'{"op_co\n', *lines[9:]]))
    before = contents(folder)
    refused(cli("run", "--space", small_space, "--out", folder), "study.log:10: not a record")
    # Well-formed records that Optuna cannot replay.
    (folder / "study.log").write_bytes(b"".join([lines[0], b'{"op_code":4,"trial_id":77}\n', *lines[1:]]))
    before["study.log"] = (folder / "study.log").read_bytes()
    refused(cli("run", "--space", small_space, "--out", folder), "study.log")
    assert contents(folder) == before


def test_output_paths_that_cannot_be(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file")
    refused(cli("run", "--space", small_space, "--out", tmp_path / "plain" / "run"), "is a file")
    refused(cli("run", "--space", small_space, "--out", tmp_path / "plain"), "is a file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    refused(cli("run", "--space", small_space, "--out", tmp_path / "mine"), "not a run's folder")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert cli("run", "--space", small_space, "--out", folder, "--trials", "3").returncode == 0
    journal = folder / "study.log"
    kept = journal.read_bytes()
    (tmp_path / "copy.log").write_bytes(kept)
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"ulimit -f {len(kept) // 1024 + 8}; exec {sys.executable} -m hwsearch run"
            f" --space {small_space} --out {folder}",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "0"},
    )
    refused(done, "finished trials are kept")
    assert cli("run", "--space", small_space, "--out", folder).returncode == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("budget:", "budgets:"), "unknown key; accepted"),
        (("max: 4M", "max: big"), "found 'big'"),
        (("[32, 64]", "[]"), "the list is empty"),
        (("{min: 1M, max: 4M}", "{min: 800M, max: 900M}"), "no shape is left"),
        (("t4: 2.0", "gtx480: 2.0"), "gtx480"),
        (("reference:", BOMB + "reference:"), "aliases unfold it"),
    ],
)
def test_a_bad_space_is_refused_and_nothing_is_written(
    cli: Cli, small_space: Path, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    small_space.write_text(SMALL_SPACE.replace(*change))
    done = cli("run", "--space", small_space)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert "small" in done.stderr and not (tmp_path / "runs").exists()


def test_bad_flags(cli: Cli, small_space: Path) -> None:
    refused(cli("run", "--space", "nowhere.yaml"), "nowhere.yaml: cannot read")
    refused(cli("run", "--space", small_space, "--gpus", "t4,warp9"), "warp9")
    refused(cli("run", "--space", small_space, "--trials", "0"), "--trials: 0")
    refused(cli("run", "--space", small_space, "--storage", "nosuch://x:pw@y"), "cannot be opened")
    assert cli("run").returncode == 2 and cli("nonsense").returncode == 2


def get_json(application: Callable[..., Iterable[bytes]], path: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(application(environ, lambda code, headers, error=None: status.append(code)))
    assert status == ["200 OK"]
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_dashboard_reads_the_study(cli: Cli, small_space: Path, tmp_path: Path) -> None:
    """optuna-dashboard's own application serves the study with readable names."""
    optuna_dashboard = pytest.importorskip("optuna_dashboard")
    assert cli("run", "--space", small_space).returncode == 0
    storage = open_storage(str(tmp_path / "runs" / "small" / "study.log"))
    application = optuna_dashboard.wsgi(storage)
    (study,) = get_json(application, "/api/studies")["study_summaries"]
    assert study["study_name"] == "small"
    detail = get_json(application, f"/api/studies/{study['study_id']}")
    assert detail["objective_names"] == ["basket_latency_ms", "quality_prior_M"]
    trial = detail["trials"][0]
    assert {p["name"] for p in trial["params"]} >= {"num_hidden_layers", "hidden_size", "intermediate_size"}
    assert {a["key"] for a in trial["user_attrs"]} >= {"shape", "source", "latency_ms"}
