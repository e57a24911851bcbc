"""The optimizer stays inside its space, repeats nothing, and is far ahead of random search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.proposals import Optimizer, Settings
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.tuning_space import TuningSpace
from tests.tuning.synthetic import cache, write


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedSpace:
    return read_recorded(write(Path(tmp_path_factory.mktemp("cache")) / "cache.json", cache()))


def told(optimizer: Optimizer, recorded: RecordedSpace, count: int) -> list[int]:
    """Rows proposed and told, up to `count`."""
    rows: list[int] = []
    while len(rows) < count and (row := optimizer.propose()) is not None:
        rows.append(row)
        optimizer.tell(row, None if np.isnan(recorded.times[row]) else float(recorded.times[row]))
    return rows


@pytest.mark.parametrize("small", [Settings(), Settings(modelled=20, fitted=10, shortlist=16, candidates=40)])
def test_every_configuration_is_proposed_once_and_then_none(recorded: RecordedSpace, small: Settings) -> None:
    optimizer = Optimizer(recorded.space, 3, small)
    rows = told(optimizer, recorded, len(recorded) + 1)
    assert sorted(rows) == list(range(len(recorded)))
    assert optimizer.propose() is None


def test_the_optimum_is_found_far_earlier_than_by_chance(recorded: RecordedSpace) -> None:
    best = int(np.nanargmin(recorded.times))
    needed = [
        told(Optimizer(recorded.space, seed, Settings()), recorded, 60).index(best) for seed in range(5)
    ]
    # By chance half of the configurations are needed on average, some 150.
    assert len(recorded) > 280 and np.mean(needed) < 40


def test_failures_teach_where_not_to_go(recorded: RecordedSpace) -> None:
    failed = np.isnan(recorded.times)
    shares = [failed[told(Optimizer(recorded.space, s, Settings()), recorded, 60)].mean() for s in range(5)]
    assert failed.mean() > 0.05 and np.mean(shares) < failed.mean()


def test_a_search_goes_on_as_if_it_had_not_been_cut_off(recorded: RecordedSpace) -> None:
    whole = told(Optimizer(recorded.space, 1, Settings()), recorded, 40)
    for cut in (0, 2, 7, 23):
        resumed = Optimizer(recorded.space, 1, Settings())
        for row in whole[:cut]:
            resumed.tell(row, None if np.isnan(recorded.times[row]) else float(recorded.times[row]))
        assert whole[:cut] + told(resumed, recorded, 40 - cut) == whole


def test_what_is_pending_is_neither_proposed_nor_crowded(recorded: RecordedSpace) -> None:
    optimizer = Optimizer(recorded.space, 5, Settings())
    told(optimizer, recorded, 25)
    batch: list[int] = []
    for _ in range(8):
        row = optimizer.propose(batch)
        assert row is not None
        batch.append(row)
    assert len(set(batch)) == 8
    assert batch[0] == optimizer.propose()  # asking changes nothing


@pytest.mark.parametrize("outcomes", [[None] * 30, [1.0] * 30, [1e-300, 1e300] * 15])
def test_odd_outcomes_leave_it_proposing(recorded: RecordedSpace, outcomes: list[float | None]) -> None:
    optimizer = Optimizer(recorded.space, 0, Settings())
    rows = set()
    for outcome in outcomes:
        row = optimizer.propose()
        assert row is not None
        rows.add(row)
        optimizer.tell(row, outcome)
    assert len(rows) == len(outcomes)


@pytest.mark.parametrize("time", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(recorded: RecordedSpace, time: float) -> None:
    with pytest.raises(HwsearchError, match="positive number"):
        Optimizer(recorded.space, 0, Settings()).tell(0, time)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from("xyz"), st.floats(-2, 2)),
        min_size=1,
        max_size=25,
        unique=True,
    ),
    st.integers(0, 2**31),
    st.data(),
)
def test_any_small_space_is_covered(
    configurations: list[tuple[int, str, float]], seed: int, data: st.DataObject
) -> None:
    space = TuningSpace.of(("number", "word", "fraction"), configurations)
    optimizer = Optimizer(space, seed, Settings())
    rows = []
    while (row := optimizer.propose()) is not None:
        rows.append(row)
        optimizer.tell(row, data.draw(st.one_of(st.none(), st.floats(1e-6, 1e6))))
    assert sorted(rows) == list(range(len(space)))
