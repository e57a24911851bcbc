"""The report: what a run found, escaped, with where the reference lands said in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pandas as pd
import pytest

from hwsearch.api import run
from hwsearch.errors import HwsearchError
from hwsearch.report.html import report_html, write_report
from hwsearch.report.summary import read_summary
from hwsearch.report.table import answer_table, verdicts
from hwsearch.search.run_folder import RunFolder


@pytest.fixture
def folder(small_space: Path, tmp_path: Path) -> RunFolder:
    return run(str(small_space), out=tmp_path / "run").folder


def test_the_table_has_a_row_a_shape_and_a_column_a_gpu(folder: RunFolder) -> None:
    summary = read_summary(folder)
    table = answer_table(summary)
    for winner in summary["winners"]:
        (line,) = [
            line for line in table.splitlines() if line.split()[:1] == ["winner"] and winner["shape"] in line
        ]
        assert f"{winner['speedup'][0]:.3f}x" in line and f"{winner['speedup'][1]:.3f}x" in line
    assert "t4" in table and "l4" in table


def test_the_verdicts_follow_the_summary(folder: RunFolder) -> None:
    summary = read_summary(folder)
    better = {**summary["winners"][0], "basket_speedup": 1.25, "speedup": [1.1, 1.3]}
    ahead = {**summary, "fastest_no_worse": better, "like_for_like": better}
    first, second = verdicts(ahead)
    assert "25.0 % faster" in first and "by 10.0 to 30.0 %" in second
    first, second = verdicts({**summary, "fastest_no_worse": None, "like_for_like": None})
    assert "No candidate dominates" in first and "no candidate" in second


def test_the_page_escapes_what_it_shows(folder: RunFolder) -> None:
    summary = copy.deepcopy(read_summary(folder))
    summary["space"] = "<script>alert(1)</script>"
    summary["workloads"] = ["<b>x</b>"]
    front = pd.read_csv(folder.front)
    front.loc[0, "shape"] = "'><script>alert(2)</script>"
    page = report_html(summary, front)
    assert "<script>" not in page and "<b>x</b>" not in page
    assert page.count("<circle") == len(front)


def test_a_folder_without_a_finished_run(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(HwsearchError, match="no finished run"):
        read_summary(RunFolder(tmp_path))
    folder.summary.write_text("{")
    with pytest.raises(HwsearchError, match=r"summary\.json:1: not valid JSON"):
        read_summary(folder)
    folder.summary.write_text(json.dumps([1]))
    with pytest.raises(HwsearchError, match="not a run's summary"):
        read_summary(folder)


def test_a_lost_front_is_named(folder: RunFolder) -> None:
    folder.front.unlink()
    with pytest.raises(HwsearchError, match=r"front\.csv: cannot be read"):
        write_report(folder)
