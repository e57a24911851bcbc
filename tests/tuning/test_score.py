"""Random search scores 0 and knowing the optimum scores 1, whatever the unit of time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.score import random_baseline
from tests.tuning.synthetic import cache, write


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedSpace:
    return read_recorded(write(Path(tmp_path_factory.mktemp("cache")) / "cache.json", cache()))


def random_score(recorded: RecordedSpace, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(recorded))
    best = np.fmin.accumulate(recorded.times[order])
    return random_baseline(recorded, runs=400).score(
        np.cumsum(recorded.seconds[order]).tolist(), [None if np.isnan(b) else b for b in best]
    )


def test_random_search_scores_nothing(recorded: RecordedSpace) -> None:
    scores = [random_score(recorded, seed) for seed in range(1000, 1200)]
    error = np.std(scores) / len(scores) ** 0.5
    assert error < 0.1 and abs(np.mean(scores)) < 3 * error + 0.02


def test_knowing_the_optimum_scores_one_and_finding_nothing_is_worse_than_random(
    recorded: RecordedSpace,
) -> None:
    baseline = random_baseline(recorded, runs=100)
    assert baseline.score([1e-9], [baseline.optimum]) == pytest.approx(1.0)
    assert baseline.score([1e-9], [None]) == baseline.score([], []) < -1
    late = baseline.score([baseline.budget_s / 2], [baseline.optimum])
    assert late < 1


def test_the_baseline_falls_to_the_share_it_is_cut_off_at(recorded: RecordedSpace) -> None:
    baseline = random_baseline(recorded, runs=400)
    closed = (baseline.median - baseline.expected) / (baseline.median - baseline.optimum)
    assert (np.diff(baseline.expected) <= 0).all() and closed[0] >= 0.01
    assert closed[-1] == pytest.approx(0.95, abs=0.01)


def test_scores_do_not_depend_on_the_unit(tmp_path: Path) -> None:
    seconds = read_recorded(write(tmp_path / "s.json", cache(1e-3)))
    milliseconds = read_recorded(write(tmp_path / "ms.json", cache()))
    assert random_score(seconds, 7) == pytest.approx(random_score(milliseconds, 7))


def test_a_flat_space_has_nothing_to_tune(tmp_path: Path) -> None:
    document = cache()
    for entry in document["cache"].values():
        entry["time"] = 1.0
    with pytest.raises(HwsearchError, match="nothing to tune"):
        random_baseline(read_recorded(write(tmp_path / "flat.json", document)))
