"""hwsearch run --rung measure, as a user sees it, on the CPU at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli

NANO = """\
shape:
  num_hidden_layers: [1, 2]
  hidden_size: [64, 128]
  head_size: 64
  intermediate_size: [64, 128]
  vocab_size: 64
  max_position_embeddings: 64
budget: {min: 20000, max: 1M}
basket: {t4: 1.0}
workloads:
  - {lengths: "fixed:16x2"}
objectives:
  latency: {weight: 1.0}
  quality_prior: {weight: 1.0}
reference: L1-h64-a1-i64-v64-p64
"""


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    path = tmp_path / "nano.yaml"
    path.write_text(NANO)
    return path


def test_a_cpu_is_measured_and_the_answer_is_of_what_was_measured(
    nano: Path, tmp_path: Path, cli: Cli
) -> None:
    command = ("run", "--space", nano, "--rung", "measure", "--gpus", "cpu", "--trials", "1")
    first = cli(*command)
    assert first.returncode == 0, first.stderr
    assert "1 of 8 candidates measured besides the reference" in first.stdout
    assert "Measured on cpu: " in first.stdout and "cpu: over 2 shapes the prediction is" in first.stdout
    run = tmp_path / "runs" / "nano"
    rows = [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["gpu"] == "cpu" and row["p50_s"] > 0 for row in rows)
    # Another process measures the CPU's constants anew, but takes those of the run, and has nothing to do.
    again = cli(*command, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["counts"]["measured"] == 1 and summary["source"] == "measured"
    assert len((run / "measurements.jsonl").read_text().splitlines()) == 2
    shown = cli("report", run)
    assert "Predicted against measured" in shown.stdout
    assert json.loads(cli("report", run, "--json").stdout)["measured"] == summary
    assert "<h3>Predicted against measured</h3>" in (run / "report.html").read_text()
    exported = cli("export", run, "--format", "yaml", "--out", "exported")
    assert exported.returncode == 0
    assert (
        (tmp_path / "exported" / "shape.yaml")
        .read_text()
        .endswith((run / "measured" / "0" / "shape.yaml").read_text().partition("\n")[2])
    )


def test_a_basket_without_a_device_ends_at_once_and_writes_nothing(
    nano: Path, tmp_path: Path, cli: Cli
) -> None:
    done = cli("run", "--space", nano, "--rung", "measure", "--gpus", "b200")
    if "what is at hand: b200" in done.stderr:
        pytest.skip("this machine has one")
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    assert done.stderr.startswith(
        "hwsearch: --rung measure: no device here measures any GPU of the basket (b200)"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rung", "measure", "--gpus", "cpu", "--trials", "0"), "--trials: 0; accepted: 1 or more"),
        (
            ("--rung", "measure", "--gpus", "cpu", "--backend", "nope"),
            "backend: 'nope' cannot be measured; accepted",
        ),
        (("--rung", "measure", "--gpus", "cpu,nope"), "no GPU profile is called 'nope'"),
        (("--backend", "cpu"), "--backend: needs --rung measure"),
        (("--gpus", "cpu"), "a basket holds it only as --gpus cpu --rung measure"),
        (("--rung", "measure", "--data", "."), "--data: needs --rung train"),
    ],
)
def test_bad_input_is_one_message(
    nano: Path, tmp_path: Path, cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    done = cli("run", "--space", nano, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_runtime_that_cannot_be_measured_is_refused(nano: Path, tmp_path: Path, cli: Cli) -> None:
    nano.write_text(f"{NANO}runtime: tensorrt\n")
    done = cli("run", "--space", nano, "--rung", "measure", "--gpus", "cpu")
    assert done.returncode == 2 and "runtime: 'tensorrt' cannot be measured" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_empty_space_is_refused_before_devices_are_looked_for(
    nano: Path, tmp_path: Path, cli: Cli
) -> None:
    nano.write_text(NANO.replace("max: 1M", "max: 20001"))
    ray = ("--engine", "ray", "--ray-address", "127.0.0.1:1")
    done = cli("run", "--space", nano, "--rung", "measure", "--gpus", "cpu", *ray)
    assert done.returncode == 2 and "nano: no shape is left" in done.stderr
    assert not (tmp_path / "runs").exists()
