"""What we measure is written as Kernel Tuner writes it, and comes back as the same row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuned_rows import CONFIGS, KEY, ONE_PASS, row, write

from hwsearch.errors import HwsearchError
from hwsearch.kernels.tuned import Key, Row, read_table
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.t4_file import FAILURES, Evaluation, export_t4, export_table, import_t4

COSTS = {"compile_s": 1.5, "verification_s": 0.25, "benchmark_s": 0.5, "framework_s": 0.125}
FORWARD = CONFIGS["attention_forward"]


def forward(stages: int, seconds: float | None = None, failure: str | None = None) -> Evaluation:
    return Evaluation(FORWARD | {"stages": stages}, seconds, failure, (), None, **COSTS)


EVALUATIONS = [
    forward(1, 3e-4),
    forward(2, 1e-4),
    forward(3, failure="compile"),
    forward(4, 2e-4),
    *(forward(5 + n, failure=failure) for n, failure in enumerate(("timeout", "correctness"))),
]
FOUND = row(
    config=FORWARD, alternatives=((FORWARD | {"stages": 4}, 2e-4), (FORWARD | {"stages": 1}, 3e-4)),
    triton="3.6.0", joules=0.02,
)  # fmt: skip


def export(path: Path, evaluations: list[Evaluation] = EVALUATIONS, found: Row = FOUND) -> Path:
    export_t4(path, "attention_forward", "h200-sxm", found, evaluations)
    return path


def same(one: Row, other: Row) -> bool:
    """But for the last bit of a time, which went to milliseconds and back."""

    def flat(row: Row) -> list[float]:
        return [row.seconds, *(seconds for _, seconds in row.alternatives)]

    def rest(row: Row) -> Row:
        return replace(row, seconds=0, alternatives=tuple((config, 0.0) for config, _ in row.alternatives))

    return rest(one) == rest(other) and flat(one) == pytest.approx(flat(other), rel=1e-12)


def test_a_search_can_be_replayed(tmp_path: Path) -> None:
    recorded = read_recorded(export(tmp_path / "t4.json"))
    assert [recorded.space.configuration(place) for place in range(6)] == [e.config for e in EVALUATIONS]
    assert recorded.times[:2].tolist() == pytest.approx([0.3, 0.1])
    assert recorded.failures == {2: "compile", 4: "timeout", 5: "correctness"}
    assert recorded.seconds.tolist() == pytest.approx([2.375] * 6)


def test_what_was_exported_is_imported(tmp_path: Path) -> None:
    found = import_t4(export(tmp_path / "t4.json"))
    assert (found.kernel, found.gpu) == ("attention_forward", "h200-sxm")
    assert same(found.row, FOUND)


def test_at_most_four_alternatives_are_kept(tmp_path: Path) -> None:
    path = export(tmp_path / "t4.json", [forward(n, 1e-4 * n) for n in range(8, 0, -1)])
    found = import_t4(path).row
    assert found.config["stages"] == 1 and [c["stages"] for c, _ in found.alternatives] == [2, 3, 4, 5]


def test_both_ways_through_the_backward_are_configurations_of_one_space(tmp_path: Path) -> None:
    """Kernel Tuner's readers know one set of parameters a file."""
    kernel, key = "attention_backward", Key("bf16", 64, "global", 64)
    two = CONFIGS[kernel]
    found = row(kernel, key, config=ONE_PASS, alternatives=((two, 2e-4),))
    export_t4(tmp_path / "t4.json", kernel, "l4", found, [Evaluation(two, 2e-4), Evaluation(ONE_PASS, 1e-4)])
    results = json.loads((tmp_path / "t4.json").read_text())["results"]
    assert results[0]["configuration"].keys() == results[1]["configuration"].keys()
    assert same(import_t4(tmp_path / "t4.json").row, found)


@pytest.mark.parametrize("kernel", ["attention_forward", "attention_backward", "attention_backend"])
def test_a_table_is_a_file_a_row(tmp_path: Path, kernel: str) -> None:
    rows = [
        row(kernel),
        row(kernel, source="modelled", spread=None),
        row(kernel, replace(KEY, window="wide", length=8192), default_seconds=None),
    ]
    table = read_table(write(tmp_path / "tuned", "h200-sxm", *rows, kernel=kernel))
    paths = export_table(tmp_path / "t4", table)
    assert [path.name for path in paths] == [
        f"{kernel}-bf16-64-global-512-measured.json",
        f"{kernel}-bf16-64-global-512-modelled.json",
        f"{kernel}-bf16-64-wide-8192-measured.json",
    ]
    for path, each in zip(paths, rows, strict=True):
        assert path.parent == tmp_path / "t4" / "h200-sxm" and same(import_t4(path).row, each)


def changed(path: Path, **change: Any) -> Path:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | change))
    return path


def test_a_file_of_another_tuner_is_told_where_it_belongs(tmp_path: Path) -> None:
    path = changed(export(tmp_path / "t4.json"), metadata={"timeunit": "seconds"})
    with pytest.raises(HwsearchError, match=r"t4\.json: kernel: None; accepted: attention_forward, "):
        import_t4(path)
    with pytest.raises(HwsearchError, match=r"t4\.json: gpu: None"):
        import_t4(path, {"kernel": "attention_forward"})
    about = {
        "kernel": "attention_forward", "gpu": "l4", "dtype": "bf16", "head_size": 64, "window": "narrow",
        "length": 512, "source": "measured", "workload": "fixed:512x64", "heads": 12,
        "date": "2026-11-21", "method": "theirs",
    }  # fmt: skip
    found = import_t4(path, about)
    assert found.gpu == "l4" and found.row.key == Key("bf16", 64, "narrow", 512)
    assert found.row.seconds == pytest.approx(0.1) and found.row.triton is None
    del about["workload"]
    with pytest.raises(HwsearchError, match="an object with workload"):
        import_t4(path, about)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"results": []}, "no configuration"),
        ({"results": None}, "results is NoneType"),
        ({"metadata": {"timeunit": "fortnights"}}, "timeunit is 'fortnights'; accepted: milliseconds, "),
        ({"metadata": {"hwsearch": 3}}, "hwsearch is int"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = changed(export(tmp_path / "t4.json"), **change)
    with pytest.raises(HwsearchError, match=f"t4\\.json: .*{reason}"):
        import_t4(path)


def test_configurations_of_another_kernel_are_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "t4.json", [Evaluation({"block_size_x": 32}, 1e-4)])
    with pytest.raises(HwsearchError, match=r"config: .*; accepted: an object with rows"):
        import_t4(path)
    path = export(tmp_path / "t4.json", [Evaluation(FORWARD | {"rows": 48}, 1e-4)])
    with pytest.raises(HwsearchError, match=r"config\.rows: 48; accepted: 16, "):
        import_t4(path)


def test_a_search_in_which_all_failed_has_no_row(tmp_path: Path) -> None:
    path = export(tmp_path / "t4.json", [forward(1, failure="runtime")])
    with pytest.raises(HwsearchError, match="every configuration in it has failed"):
        import_t4(path)


@pytest.mark.parametrize("wrong", [forward(1), forward(1, 1e-4, "compile"), forward(1, failure="bored")])
def test_a_failure_is_one_that_t4_knows(tmp_path: Path, wrong: Evaluation) -> None:
    with pytest.raises(ValueError, match=r"^failure: "):
        export(tmp_path / "t4.json", [wrong])
    assert not (tmp_path / "t4.json").exists()


def test_kernel_tuner_writes_the_same_and_its_schema_holds(tmp_path: Path) -> None:
    """By Kernel Tuner's own writer and schema, where it is installed."""
    file_utils = pytest.importorskip("kernel_tuner.file_utils")
    jsonschema = pytest.importorskip("jsonschema")
    from kernel_tuner.util import CompilationFailedConfig, InvalidConfig, RuntimeFailedConfig

    # Strings, which its caches name after themselves.
    errors = {
        "compile": CompilationFailedConfig("CompilationFailedConfig"),
        "runtime": RuntimeFailedConfig("RuntimeFailedConfig"),
        "constraints": InvalidConfig("InvalidConfig"),
    }
    evaluations = [
        replace(forward(1, 3e-4), runs=(2e-4, 4e-4), timestamp="2026-11-21T10:00:00"),
        *(forward(2 + n, failure=failure) for n, failure in enumerate(errors)),
    ]
    ours = json.loads(export(tmp_path / "t4.json", evaluations).read_text())
    version, schema = file_utils.output_file_schema("results")
    jsonschema.validate(ours, schema)
    assert ours["schema_version"] == version
    assert {*FAILURES, "correct"} == set(
        schema["properties"]["results"]["items"]["properties"]["invalidity"]["enum"]
    )
    results = [
        {
            **each.config, "compile_time": 1500.0, "verification_time": 250.0, "benchmark_time": 500.0,
            "framework_time": 125.0, "strategy_time": 0.0, "times": [1e3 * run for run in each.runs],
            **({"timestamp": each.timestamp} if each.timestamp else {}),
            **({"__error__": errors[each.failure]} if each.failure else {}),
            "time": errors[each.failure] if each.failure else 1e3 * each.seconds,
        }
        for each in evaluations
    ]  # fmt: skip
    theirs = file_utils.get_t4_results(results, dict.fromkeys(FORWARD))
    assert theirs["metadata"]["timeunit"] == ours["metadata"]["timeunit"]
    for mine, its in zip(ours["results"], theirs["results"], strict=True):
        # It notes an error among the measurements too.
        its["measurements"] = [each for each in its["measurements"] if each["name"] != "__error__"]
        assert mine == its
