"""`hwsearch run --rung train` as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.search.contest.nano_space import SPACE

OPTIONS = ("--rung", "train", "--trials", "1", "--train-tokens", "2048", "--tokens-per-step", "128")
OPTIONS = (*OPTIONS, "--sequence-length", "32", "--data", "text.txt")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "nano.yaml").write_text(SPACE)
    text = "\n".join(f"line {n}: the square of {n} is {n * n}" for n in range(900))
    (tmp_path / "text.txt").write_text(text)
    return tmp_path


def test_a_killed_contest_goes_on_and_says_what_it_found(cli: Cli, here: Path) -> None:
    command = [sys.executable, "-m", "hwsearch", "run", "--space", "nano.yaml", "--out", "run", *OPTIONS]
    with subprocess.Popen(command, cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        end = time.monotonic() + 600
        while not list(here.glob("run/trained/*/model.safetensors")) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert list(here.glob("run/trained/*/model.safetensors"))

    done = cli("run", "--space", "nano.yaml", "--out", "run", *OPTIONS, "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert re.search("to train: [12] shapes, 2,048 tokens each", done.stderr)  # the kill may come late
    assert "warning: after 2,048 tokens" in done.stderr  # which teach how often each word comes
    summary = json.loads(done.stdout)
    assert len([run for run in summary["runs"] if run["seed"] == 0]) == 2
    assert json.loads((here / "run" / "trained.json").read_text()) == summary
    assert (here / "run" / "trained" / "shape.yaml").is_file()

    shown = cli("report", "run")
    assert "Trained:" in shown.stdout and "reference" in shown.stdout and "noise" in shown.stdout
    assert "<h2>Trained</h2>" in (here / "run" / "report.html").read_text()


def test_options_of_training_need_the_rung(cli: Cli, here: Path) -> None:
    refused = cli("run", "--space", "nano.yaml", "--train-tokens", "4096")
    assert refused.returncode == 2 and "--train-tokens: needs --rung train" in refused.stderr
    assert not (here / "runs").exists()
    short = cli("run", "--space", "nano.yaml", "--rung", "train", "--train-tokens", "4096")
    assert short.returncode == 2 and "32,768 or more" in short.stderr and "Traceback" not in short.stderr
    assert not (here / "runs").exists()  # refused before anything is done
