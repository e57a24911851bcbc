"""A T1 file takes configurations out of a cache; one that does not fit it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.recorded import constrained
from hwsearch.tuning.t1_file import read_t1
from tests.tuning.synthetic import cache, t1, write


def test_constraints_leave_exactly_what_they_allow(tmp_path: Path) -> None:
    recorded = read_recorded(write(tmp_path / "cache.json", cache()))
    path = write(tmp_path / "t1.json", t1("block * tile <= 256", "layout == 'row' or unroll != 0"))
    left = constrained(recorded, read_t1(path), str(path))
    expected = [
        row
        for row in range(len(recorded))
        if (s := recorded.space.configuration(row))["block"] * s["tile"] <= 256
        and (s["layout"] == "row" or s["unroll"] != 0)
    ]
    assert 0 < len(expected) < len(recorded)
    assert [left.space.configuration(row) for row in range(len(left))] == [
        recorded.space.configuration(row) for row in expected
    ]
    np.testing.assert_array_equal(left.times, recorded.times[expected])
    np.testing.assert_array_equal(left.seconds, recorded.seconds[expected])
    assert sorted(left.failures) == np.flatnonzero(np.isnan(left.times)).tolist()


def test_a_single_valued_parameter_may_be_missing_from_the_cache(tmp_path: Path) -> None:
    document = t1("block * width <= 64")
    document["ConfigurationSpace"]["TuningParameters"].append({"Name": "width", "Values": "[2]"})
    recorded = read_recorded(write(tmp_path / "cache.json", cache()))
    left = constrained(recorded, read_t1(write(tmp_path / "t1.json", document)), "t1.json")
    assert {left.space.configuration(row)["block"] for row in range(len(left))} == {16, 32}


def extended(values: Any) -> dict[str, Any]:
    document = t1()
    document["ConfigurationSpace"]["TuningParameters"].append({"Name": "width", "Values": values})
    return document


def shortened() -> dict[str, Any]:
    document = t1()
    document["ConfigurationSpace"]["TuningParameters"].pop(0)
    return document


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("nothing", "not JSON"),
        ({}, "has no ConfigurationSpace"),
        ({"ConfigurationSpace": []}, "ConfigurationSpace is list"),
        ({"ConfigurationSpace": {"TuningParameters": []}}, "is empty"),
        ({"ConfigurationSpace": {"TuningParameters": [{"Values": "[1]"}]}}, "has no Name"),
        (t1(5), "Expression is int"),  # type: ignore[arg-type]
        (shortened(), "has no parameter block"),
        (extended("[1, 2]"), "has the parameter width, which the cache has not"),
        (extended("list(range(1, 3))"), "has the parameter width"),
        (t1("block > 10000"), "no configuration of the cache is left after 'block > 10000'"),
        (t1("unroll == 4 and block >= 128"), "has failed"),
        (t1("open('x')"), "is not allowed"),
        (t1("blocks > 1"), "blocks is no parameter"),
    ],
)
def test_another_format_or_kernel_is_refused(tmp_path: Path, document: Any, found: str) -> None:
    recorded = read_recorded(write(tmp_path / "cache.json", cache()))
    path = write(tmp_path / "t1.json", document)
    with pytest.raises(HwsearchError) as refusal:
        constrained(recorded, read_t1(path), str(path))
    assert str(refusal.value).startswith(str(path)) and found in str(refusal.value)
