"""hwsearch tune as a process: measured on the CPU, shown, gone on from; one clear error for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwsearch.files import data_folder
from tests.conftest import Cli

# One sequence of a few tokens: the whole path, in little time.
SMALL = ("--workload", "fixed:24x2", "--heads", "1", "--head-size", "32", "--trials", "2", "--seconds", "100")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HWSEARCH_PROFILES", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")  # two backends are enough
    return tmp_path / "cache" / "tuned"


def test_what_is_tuned_on_the_cpu_is_shown_and_goes_on(cli: Cli, here: Path) -> None:
    done = cli("tune", "attention_backend", "--gpu", "cpu", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "cpu: 1 to tune, measured on this machine" in done.stderr
    table = json.loads((here / "cpu" / "attention_backend.json").read_text())
    (row, last) = table["rows"]
    assert last is None and row["source"] == "measured" and row["workload"] == "fixed:24x2"
    assert (row["dtype"], row["head_size"], row["window"], row["length"]) == ("fp32", 32, "global", 32)
    assert {row["config"]["backend"], *(a["config"]["backend"] for a in row["alternatives"])} == {
        "cpu", "sdpa",
    }  # fmt: skip

    shown = cli("tune", "--show")
    assert shown.returncode == 0 and str(here / "cpu" / "attention_backend.json") in shown.stdout
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("cpu ")]
    assert line.split()[1:7] == ["attention_backend", "fp32", "32", "global", "32", "measured"]

    # As Kernel Tuner's results and back: all that was measured, and the row as it is.
    exported = cli("tune", "--export", "t4", "--gpu", "cpu")
    assert exported.returncode == 0, exported.stderr
    (t4,) = exported.stdout.split()
    assert len(json.loads((here.parent.parent / t4).read_text())["results"]) == 2
    text = (here / "cpu" / "attention_backend.json").read_text()
    (here / "cpu" / "attention_backend.json").unlink()
    imported = cli("tune", "--import", t4)
    assert imported.returncode == 0, imported.stderr
    assert (here / "cpu" / "attention_backend.json").read_text() == text
    assert "<html" in (here.parent / "tuning" / "cpu.html").read_text()

    # All two configurations are in the study: nothing is measured again but the final race.
    again = cli("tune", "attention_backend", "--gpu", "cpu", *SMALL, "--json")
    assert again.returncode == 0, again.stderr
    (found,) = json.loads(again.stdout)
    assert found["kernel"] == "attention_backend" and found["key"]["length"] == 32


def test_nothing_tuned_is_said(cli: Cli, here: Path) -> None:
    done = cli("tune", "attention_backend", "--show", "--gpu", "t4")
    assert done.returncode == 0 and "no tuned table of t4" in done.stdout and str(here) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing is asked for; accepted: a KERNEL, --all, --space FILE or --show"),
        ("gemm", "no kernel is called 'gemm'; accepted: attention, attention_forward"),
        ("attention --gpu l5", "no GPU profile is called 'l5'"),
        ("attention --gpu t4", "t4: nothing of"),
        ("attention_backend --gpu l4", "l4: nothing of attention_backend can be tuned: it is not here"),
        (
            "attention --gpu l4 --objective energy --length 32",
            "--objective energy is measured, and l4 is not",
        ),
        ("attention --gpu l4 --head-size 64,x", "--head-size: found '64,x'"),
        ("attention --gpu l4 --window all", "window: 'all'; accepted: global, narrow, wide"),
        ("attention --gpu cpu --head-size 7", "head size: 7; accepted: even sizes"),
        ("attention --gpu l4 --length 0", "length: 0; accepted: 1 to 8,192"),
        ("attention --gpu l4 --trials 0", "--trials: found 0; accepted: 1 or more"),
        ("attention --gpu l4 --seconds nan", "--seconds: found nan"),
        ("attention --gpu t4 --dtype bf16 --all", "t4: nothing of"),
        ("--space nosuch.yaml", "nosuch.yaml"),
        ("--export t4 --gpu t4", "--export: no tuned table of t4"),
        ("--import nosuch.json", "nosuch.json"),
        ("attention --trace out.jsonl", "--trace: belongs to --replay"),
        ("attention_forward attention_backward --import x.json", "accepted: one kernel"),
        ("--show --gpu l5", "no GPU profile is called 'l5'"),
        ("--replay cache.json --budget-seconds 5", "--replay needs --budget-seconds S and --trace OUT.jsonl"),
    ],
)
def test_bad_input_is_one_message(cli: Cli, here: Path, arguments: str, message: str) -> None:
    done = cli("tune", *arguments.split())
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not here.exists()


def test_a_broken_table_is_left_alone(cli: Cli, here: Path) -> None:
    table = here / "cpu" / "attention_backend.json"
    table.parent.mkdir(parents=True)
    table.write_text('{"format": 2, "kernel": "attention_backend"')
    shown = cli("tune", "--show")
    assert shown.returncode == 2 and str(table) in shown.stderr
    shipped = data_folder("profiles") / "tuned" / "l4" / "attention_forward.json"
    astray = here / "a10" / "attention_forward.json"
    astray.parent.mkdir()
    astray.write_text(shipped.read_text())
    shown = cli("tune", "--show", "--gpu", "a10")
    assert shown.returncode == 2 and f"{astray}: a table of attention_forward on l4" in shown.stderr
    tuned = cli("tune", "attention_backend", "--gpu", "cpu", *SMALL)
    assert tuned.returncode == 2 and "left as it is" in tuned.stderr
    assert not list((here.parent / "tuning").glob("**/*.log"))  # before anything was measured
    assert table.read_text() == '{"format": 2, "kernel": "attention_backend"'
