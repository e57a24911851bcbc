"""`hwsearch predict --explain` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli


def test_a_prediction_is_explained(cli: Cli) -> None:
    done = cli("predict", "modernbert-large", "--gpu", "l4", "--explain")
    assert done.returncode == 0, done.stderr
    for said in (
        "predicted latency",
        "bound by",
        "attention local",
        "32768 x 5248 x 1024",
        "tail use",
        "Runtime graph launches nothing",
        "intermediate_size 2560 (-2.4 %)",
        "hidden_size 960",
        "Where the numbers come from",
        "gemm bf16:",
        "median error:",
    ):
        assert said in done.stdout, said
    assert max(map(len, done.stdout.split("Where the numbers")[0].splitlines())) <= 140


def test_json_holds_the_explanation_beside_the_prediction(cli: Cli) -> None:
    arguments = ("predict", "bert-base", "--gpu", "l4", "--mode", "training", "--runtime", "eager", "--json")
    plain = json.loads(cli(*arguments).stdout)
    found = json.loads(cli(*arguments, "--explain").stdout)
    explanation = found.pop("explain")
    assert found == plain and "explain" not in plain
    assert sum(o["share"] for o in explanation["operators"]) == pytest.approx(1)
    assert sum(o["seconds"] for o in explanation["operators"]) == pytest.approx(plain["device_s"])
    assert explanation["bound"] in ("device", "launches") and explanation["neighbours"]
    assert {"product", "data gradient", "weight gradient"} <= {o["kernel"] for o in explanation["operators"]}


def test_launches_bound_a_single_sequence_in_eager_mode(cli: Cli) -> None:
    done = cli(
        "predict", "bert-base", "--gpu", "h100-sxm", "--workload", "fixed:64x1", "--runtime", "eager",
        "--explain",
    )  # fmt: skip
    assert done.returncode == 0 and "The host's launches bound the whole" in done.stdout


def test_a_table_is_not_explained(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gemms.csv").write_text("op,m,n,k\ngemm,1024,1024,1024\n")
    done = cli("predict", "gemms.csv", "--gpu", "l4", "--explain")
    assert done.returncode == 2 and "--explain is for a shape" in done.stderr and not done.stdout
