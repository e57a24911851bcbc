"""What is told of the measured rung, on the terminal and in report.html."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from hwsearch.errors import HwsearchError
from hwsearch.measure.failure import CRASH, Failure
from hwsearch.measure.job import Job
from hwsearch.report.html import write_report
from hwsearch.report.measured_rung import accuracy_line, failures, measured_table
from hwsearch.report.summary import Summary, read_measured
from hwsearch.search.measured.rung import measure_front
from hwsearch.search.run import run
from hwsearch.search.run_folder import RunFolder
from hwsearch.space.search_space import load_space


@pytest.fixture
def folder(small_space: Path, tmp_path: Path) -> RunFolder:
    predicted = run(load_space(str(small_space)), out=tmp_path / "run", trials=3)
    reference = predicted.space.reference

    def fails(gpu: str, job: Job) -> Failure | None:
        odd = job.shape != reference and job.shape.num_hidden_layers % 2
        return Failure(CRASH, "<script>alert(1)</script>") if odd else None

    measure_front(predicted, FakeEngine(["l4"], fails=fails), count=4)
    return predicted.folder


def summary_of(folder: RunFolder) -> Summary:
    summary = read_measured(folder)
    assert summary is not None
    return summary


def test_every_measured_shape_stands_beside_its_prediction(folder: RunFolder) -> None:
    summary = summary_of(folder)
    table = measured_table(summary)
    for row in summary["shapes"]:
        measured, predicted = row["measured_ms"]["l4"], row["predicted_ms"]["l4"]
        (line,) = [
            line
            for line in table.splitlines()
            if row["shape"] in line and f"{measured / predicted:.3f}" in line
        ]
        assert f"{measured:.2f}" in line.split() and f"{predicted:.2f}" in line.split()
    assert "Measured on l4: a card, torch 2.13, triton 3.6." in table
    assert "No device measured t4: predicted there." in table


def test_times_that_are_missing_after_a_device_left_are_counted(folder: RunFolder) -> None:
    summary = summary_of(folder)
    assert "have no time on" not in measured_table(summary)
    del summary["shapes"][2]["measured_ms"]["l4"]
    assert f"1 of {len(summary['shapes'])} shapes have no time on l4: predicted there." in measured_table(
        summary
    )


def test_the_accuracy_is_said_in_words(folder: RunFolder) -> None:
    summary = summary_of(folder)
    found = {
        "shapes": 7,
        "median_error": 0.123,
        "bias": -0.05,
        "order": 0.9,
        "equal_order": None,
        "equal_pairs": 0,
    }
    summary["accuracy"] = {"l4": found}
    assert accuracy_line(summary, "l4") == (
        "l4: over 7 shapes the prediction is 12.3 % off (median), and 5.0 % too fast; order +0.90;"
        " no two are of equal size."
    )
    summary["accuracy"]["l4"] = found | {"bias": 0.05, "equal_order": -0.5, "equal_pairs": 3}
    assert accuracy_line(summary, "l4").endswith(
        "5.0 % too slow; order +0.90, at equal size -0.50 (3 pairs)."
    )


def test_the_page_has_the_section_escaped(folder: RunFolder) -> None:
    write_report(folder)
    page = folder.report.read_text()
    assert "<h2>Measured</h2>" in page and "<h3>Hypervolume by measured shape</h3>" in page
    assert page.count("<circle") >= len(summary_of(folder)["shapes"])
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_of_many_failures_the_first_are_shown() -> None:
    failed = [{"shape": f"L{n}", "gpu": "t4", "failure": "crash: boom"} for n in range(45)]
    lines = failures({"failed": failed})
    assert len(lines) == 41 and lines[-1] == "and 5 more, in measured.json"


def test_a_measured_summary_that_cannot_be_read_is_named(folder: RunFolder) -> None:
    folder.measured_summary.write_text("{")
    with pytest.raises(HwsearchError, match=r"measured\.json:1: not valid JSON"):
        write_report(folder)
    folder.measured_summary.write_text(json.dumps({"winners": []}))
    with pytest.raises(HwsearchError, match=r"measured\.json do not fit together"):
        write_report(folder)
