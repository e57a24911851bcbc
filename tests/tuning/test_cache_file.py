"""Recorded spaces are read with their units as stored; files of another format are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.tuning.cache_file import read_recorded
from tests.tuning.synthetic import NAMES, cache, t4, write


@pytest.mark.parametrize("name", ["cache.json", "cache.json.gz"])
def test_a_cache_is_read_row_by_row(tmp_path: Path, name: str) -> None:
    document = cache()
    recorded = read_recorded(write(tmp_path / name, document))
    entries = list(document["cache"].values())
    assert len(recorded) == len(entries) and recorded.space.names == tuple(NAMES)
    for row in (0, 17, len(entries) - 1):
        assert recorded.space.configuration(row) == {n: entries[row][n] for n in NAMES}
        assert recorded.space.row_of(entries[row]) == row
    failed = [row for row, entry in enumerate(entries) if isinstance(entry["time"], str)]
    assert failed and sorted(recorded.failures) == failed == np.flatnonzero(np.isnan(recorded.times)).tolist()
    assert set(recorded.failures.values()) == {"CompilationFailedConfig"}
    assert recorded.optimum == min(e["time"] for e in entries if not isinstance(e["time"], str))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_costs_add_up_in_the_units_as_stored_without_the_strategy(tmp_path: Path, scale: float) -> None:
    recorded = read_recorded(write(tmp_path / "cache.json", cache(scale)))
    succeeded = ~np.isnan(recorded.times)
    np.testing.assert_allclose(recorded.seconds[succeeded], scale * 1.0)
    np.testing.assert_allclose(recorded.seconds[~succeeded], scale * 0.91)


def test_t4_results_are_the_same_space(tmp_path: Path) -> None:
    ours, theirs = (
        read_recorded(write(tmp_path / name, document))
        for name, document in (("cache.json", cache()), ("t4.json", t4()))
    )
    assert ours.space.choices == theirs.space.choices
    np.testing.assert_array_equal(ours.space.codes, theirs.space.codes)
    np.testing.assert_array_equal(ours.times, theirs.times)
    np.testing.assert_allclose(ours.seconds, theirs.seconds)
    assert ours.failures.keys() == theirs.failures.keys()


def test_a_cache_that_kernel_tuner_has_not_closed_is_read(tmp_path: Path) -> None:
    text = json.dumps(cache()).removesuffix("}}") + ","
    assert len(read_recorded(write(tmp_path / "open.json", text))) == len(cache()["cache"])


def test_an_error_beside_the_time_is_a_failure(tmp_path: Path) -> None:
    document = cache()
    entry = next(iter(document["cache"].values()))
    entry["GFLOP/s"] = "InvalidConfig"
    assert read_recorded(write(tmp_path / "cache.json", document)).failures[0] == "InvalidConfig"


def without(key: str) -> dict[str, Any]:
    document = cache()
    del document[key]
    return document


def with_first(**changes: Any) -> dict[str, Any]:
    document = cache()
    next(iter(document["cache"].values())).update(changes)
    return document


def without_first(key: str) -> dict[str, Any]:
    document = cache()
    del next(iter(document["cache"].values()))[key]
    return document


def doubled() -> dict[str, Any]:
    document = cache()
    document["cache"]["again"] = next(iter(document["cache"].values()))
    return document


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "found list"),
        ({}, "found nothing"),
        ({"tables": 1}, "found tables"),
        ({**cache(), "cache": {}}, "no configuration"),
        ({**cache(), "cache": []}, "cache is list"),
        (without("cache"), "found device_name"),
        (without("tune_params_keys"), "tune_params_keys"),
        ({**cache(), "tune_params_keys": ["block", "block"]}, "twice"),
        (without_first("tile"), "has no tile"),
        (without_first("time"), "has no time"),
        (without_first("compile_time"), "compile_time is None"),
        (without_first("framework_time"), "framework_time is None"),
        (with_first(time=-1), "time is -1"),
        (with_first(time=float("nan")), "time is nan"),
        (with_first(time=[1]), "time is [1]"),
        (with_first(benchmark_time="slow"), "benchmark_time is 'slow'"),
        (with_first(tile=[1]), "tile is [1]"),
        ({**cache(), "cache": {"a": 1}}, "cache['a'] is int"),
        (doubled(), "twice"),
        ({"results": []}, "no configuration"),
        ({"results": [{"configuration": {}}]}, "has no times"),
        ({"results": 3}, "results is int"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_another_format_is_refused_with_what_was_found(tmp_path: Path, document: Any, found: str) -> None:
    path = write(tmp_path / "cache.json", document)
    with pytest.raises(HwsearchError) as refusal:
        read_recorded(path)
    assert str(refusal.value).startswith(str(path)) and found in str(refusal.value)


def test_a_space_where_all_failed_is_refused(tmp_path: Path) -> None:
    document = cache()
    for entry in document["cache"].values():
        entry["time"] = "RuntimeFailedConfig"
    with pytest.raises(HwsearchError, match="every configuration in it has failed"):
        read_recorded(write(tmp_path / "cache.json", document))


def test_a_file_that_is_absent_or_torn_is_named(tmp_path: Path) -> None:
    with pytest.raises(HwsearchError, match=r"absent\.json: cannot read"):
        read_recorded(tmp_path / "absent.json")
    whole = write(tmp_path / "whole.json.gz", cache()).read_bytes()
    (tmp_path / "torn.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HwsearchError, match=r"torn\.json\.gz: a broken gzip file"):
        read_recorded(tmp_path / "torn.json.gz")
