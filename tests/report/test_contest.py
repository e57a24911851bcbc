"""The contest's text says what was trained, what was not, and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.report.contest import contest_html, contest_table, read_contest
from hwsearch.search.contest_result import ContestResult, State, Trained, write_contest
from hwsearch.search.contest_score import Entrant
from hwsearch.search.run_folder import RunFolder
from hwsearch.shape import parse_shape


def run(shape: str, seed: int, loss: float | None, score: float | None, state: State = "complete") -> Trained:
    entrant = Entrant(parse_shape(shape), 0.0, 1e-3, is_reference=shape == "L1-h64-a1-i64")
    failure = "the GPU's memory is full\nat step 3" if state == "failed" else None
    return Trained(entrant, seed, state, {} if loss is None else {1000: loss}, score, failure)


def contest(folder: Path, *runs: Trained, unigram_loss: float = 5.5) -> ContestResult:
    return ContestResult(RunFolder(folder), list(runs), 1000, unigram_loss, 1.0, {"recipe": {"seed": 0}})


def text(folder: Path, *runs: Trained) -> str:
    return contest_table(contest(folder, *runs).summary())


def test_failures_and_unknown_noise_are_said(tmp_path: Path) -> None:
    found = text(
        tmp_path,
        run("L1-h64-a1-i64", 0, 3.0, 0.0),
        run("L2-h64-a1-i64", 0, 3.5, 0.5, "pruned"),
        run("L3-h64-a1-i64", 0, None, None, "failed"),
    )
    assert "failed, the GPU's memory is full" in found and "at step 3" not in found
    assert "1 of 3 were ended early" in found and "stays unknown" in found


def test_the_noise_is_of_two_seeds(tmp_path: Path) -> None:
    runs = [
        run("L1-h64-a1-i64", 0, 3.0, 0.0),
        run("L2-h64-a1-i64", 0, 2.9, -0.5),
        run("L1-h64-a1-i64", 1, 3.0, 0.0),
    ]
    apart = text(tmp_path, *runs, run("L2-h64-a1-i64", 1, 2.9, -0.51))
    assert "is told apart" in apart and "score: 0.007 (1 shapes)" in apart
    assert "Not told apart" in text(tmp_path, *runs, run("L2-h64-a1-i64", 1, 2.9, -0.8))


def test_ranks_by_frequencies_alone_are_called_so(tmp_path: Path) -> None:
    runs = [run("L1-h64-a1-i64", 0, 3.0, 0.0), run("L2-h64-a1-i64", 0, 2.9, -0.5)]
    learned = contest_table(contest(tmp_path, *runs).summary())
    assert "from 1,000 on" in learned and "say little" not in learned
    not_yet = contest_table(contest(tmp_path, *runs, unigram_loss=3.1).summary())
    assert "words' frequencies alone give 3.10 nats" in not_yet and "say little" in not_yet


def test_the_page_and_the_file_read_back_say_the_same(tmp_path: Path) -> None:
    assert read_contest(RunFolder(tmp_path)) is None
    failed = run("L3-h64-a1-i64", 0, None, None, "failed")
    result = contest(tmp_path, run("L1-h64-a1-i64", 0, 3.0, 0.0), replace(failed, failure="<b>bad</b>"))
    write_contest(result)
    summary = read_contest(RunFolder(tmp_path))
    assert summary is not None and contest_table(summary) == contest_table(result.summary())
    page = contest_html(summary)
    assert page.count("<tr") == 3 and "&lt;b&gt;bad" in page and "<b>bad" not in page

    for broken in ("{}", "[1]", "{", '{"recipe": {"seed": 0}, "runs": 3}'):
        RunFolder(tmp_path).trained_summary.write_text(broken)
        with pytest.raises(HwsearchError, match=r"trained\.json: not a contest's summary"):
            read_contest(RunFolder(tmp_path))
