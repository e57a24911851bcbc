"""The contest's text says what was trained, what was not, and how sure it is."""

from __future__ import annotations

from pathlib import Path

from hwsearch.report.contest import contest_table
from hwsearch.search.contest_result import ContestResult, State, Trained
from hwsearch.search.contest_score import Entrant
from hwsearch.search.run_folder import RunFolder
from hwsearch.shape import parse_shape


def run(shape: str, seed: int, loss: float | None, score: float | None, state: State = "complete") -> Trained:
    entrant = Entrant(parse_shape(shape), 0.0, 1e-3, is_reference=shape == "L1-h64-a1-i64")
    failure = "the GPU's memory is full\nat step 3" if state == "failed" else None
    return Trained(entrant, seed, state, {} if loss is None else {1000: loss}, score, failure)


def text(folder: Path, *runs: Trained) -> str:
    conditions = {"recipe": {"seed": 0}}
    return contest_table(ContestResult(RunFolder(folder), list(runs), 1000, 1.0, conditions).summary())


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
