"""hwsearch tune --replay as a process: the trace's format, and one clear error for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.tuning.synthetic import cache, t1, write


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return write(tmp_path / "cache.json.gz", cache())


def test_a_trace_holds_a_line_per_evaluation(cli: Cli, tmp_path: Path, recorded: Path) -> None:
    rules = write(tmp_path / "t1.json", t1("block * tile <= 512"))
    done = cli(
        *("tune", "--replay", recorded, "--t1", rules),
        *("--budget-seconds", "20", "--seeds", "3", "--trace", "new/out.jsonl"),
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "3 seeds" in done.stdout and "best found / fastest" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "new/out.jsonl").read_text().splitlines()]
    entries = {
        entry["time"]: entry for entry in cache()["cache"].values() if entry["block"] * entry["tile"] <= 512
    }
    for seed in range(3):
        own = [line for line in lines if line["seed"] == seed]
        assert [line["evaluation"] for line in own] == list(range(1, len(own) + 1))
        best, spent = None, 0.0
        for line in own:
            assert list(line) == ["seed", "evaluation", "recorded_seconds", "time", "best"]
            failed = isinstance(line["time"], str)
            spent += 0.91 if failed else 1.0
            assert line["recorded_seconds"] == pytest.approx(spent)
            assert line["time"] in entries
            if not failed:
                best = line["time"] if best is None else min(best, line["time"])
            assert line["best"] == best
        assert 19 < spent <= 20 + 1e-9


def test_the_same_seeds_give_the_same_trace(cli: Cli, tmp_path: Path, recorded: Path) -> None:
    for name in ("a", "b"):
        done = cli("tune", "--replay", recorded, "--budget-seconds", "15", "--trace", name)
        assert done.returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"--budget-seconds": "0"}, "--budget-seconds: found 0.0"),
        ({"--budget-seconds": "-3"}, "--budget-seconds: found -3.0"),
        ({"--budget-seconds": "nan"}, "--budget-seconds: found nan"),
        ({"--budget-seconds": "inf"}, "--budget-seconds: found inf"),
        ({"--budget-seconds": "long"}, "--budget-seconds: invalid float value"),
        ({"--seeds": "0"}, "--seeds: found 0"),
        ({"--seeds": "many"}, "--seeds: invalid int value"),
        ({"--replay": "absent.json"}, "absent.json: cannot read"),
        ({"--replay": "."}, "cannot read"),
        ({"--t1": "absent.json"}, "absent.json: cannot read"),
        ({"--trace": "."}, "is a folder"),
        ({"--trace": "cache.json.gz/out.jsonl"}, "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, recorded: Path, changes: dict[str, str], found: str
) -> None:
    options = {"--replay": str(recorded), "--budget-seconds": "5", "--trace": "out.jsonl", **changes}
    done = cli("tune", *(part for pair in options.items() for part in pair))
    assert done.returncode == 2
    assert found in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache.json.gz"]


def test_a_budget_for_nothing_says_so(cli: Cli, tmp_path: Path, recorded: Path) -> None:
    done = cli("tune", "--replay", recorded, "--budget-seconds", "0.5", "--trace", "out.jsonl")
    assert done.returncode == 0 and "no evaluation fits" in done.stdout
    assert (tmp_path / "out.jsonl").read_text() == ""
