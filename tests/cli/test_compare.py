"""hwsearch compare: encoders side by side, and the ModernBERT paper's protocol."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Cli

ISSUE = ("bert-base", "deberta-v3-base", "nomic-bert", "gte-en-mlm-base", "modernbert-base")


def test_encoders_of_one_workload_side_by_side(cli: Cli) -> None:
    done = cli(
        "compare", "bert-base", "L22-h768-a12-i1152", "--gpu", "l4", "t4", "--workload", "fixed:128x16"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "fixed:128x16" in lines[0] and sum(line.startswith(("bert-base", "L22")) for line in lines) == 4
    found = json.loads(cli("compare", "bert-base", "--gpu", "l4", "--json").stdout)
    (alone,) = found
    single = json.loads(cli("predict", "bert-base", "--gpu", "l4", "--json").stdout)
    assert alone.pop("name") == "bert-base" and alone.keys() == single.keys()
    assert alone["latency_s"] == single["latency_s"] and alone["largest_batch"] == single["largest_batch"]


def test_the_protocol_prints_each_timed_encoder(cli: Cli) -> None:
    done = cli("compare", *ISSUE, "--gpu", "rtx4090", "--protocol", "modernbert-paper")
    assert done.returncode == 0, done.stderr
    for name in (*ISSUE, "gte-en-mlm-base unpadded"):
        assert f"\n{name} " in done.stdout
    rows = json.loads(
        cli("compare", *ISSUE, "--gpu", "rtx4090", "--protocol", "modernbert-paper", "--json").stdout
    )
    assert [row["encoder"] for row in rows] == [*ISSUE[:4], "gte-en-mlm-base unpadded", "modernbert-base"]
    assert [row["long"] is None for row in rows] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("neobert", "--gpu", "rtx4090", "--protocol", "modernbert-paper"), "did not time it"),
        (("L12-h768-a12-i3072", "--gpu", "l4", "--protocol", "modernbert-paper"), "did not time it"),
        (
            ("bert-base", "--gpu", "l4", "--protocol", "modernbert-paper", "--workload", "fixed:1x1"),
            "the protocol sets its own workloads",
        ),
        (("modernbert-base", "--gpu", "t4", "--protocol", "modernbert-paper"), "t4 has no bf16"),
        (("bert-base", "--gpu", "rtx9999"), "rtx9999"),
        (("bert-huge", "--gpu", "l4"), "no such shape"),
        (("bert-base",), "--gpu"),
        (("bert-base", "--gpu", "l4", "--protocol", "other"), "modernbert-paper"),
    ],
)
def test_bad_input_is_one_message(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli("compare", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
