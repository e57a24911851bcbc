"""What passes after kills, and what does not: a check that let a real double pass would be worth nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from kill_check import Kill, Refusal, check, is_explained
from optuna.trial import FrozenTrial, TrialState, create_trial

from hwsearch.search.storage.leases import BEAT, DUPLICATE_OF, FAILURE, LOST_BY, OWNER, SHAPE_HASH

NOON = datetime(2026, 1, 1, 12)
LEASE_S = 10.0


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Story:
    """Trials, rows and timings as coordinators leave them, one line each; seconds after noon."""

    def __init__(self) -> None:
        self.trials: list[FrozenTrial] = []
        self.rows: dict[str, list[dict[str, Any]]] = {"run0": [], "run1": []}
        self.timings: list[tuple[str, str, str]] = []
        self.kills: list[Kill] = []

    def timed(self, folder: str, gpus: str = "t4 l4", row: bool = True) -> None:
        for gpu in gpus.split():
            self.timings.append((folder, gpu, "a"))
            seconds = 0.01 + 0.001 * len(self.timings)
            found = {"gpu": gpu, "shape_hash": "a", "source": "measured", "p50_s": seconds}
            self.rows[folder] += [found] * row

    def trial(self, folder: str, start: float, end: float, beat: float, **facts: Any) -> None:
        complete = not facts
        if complete:
            facts = {"measured_s": {row["gpu"]: row["p50_s"] for row in self.rows[folder]}}
        trial = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            value=1.0 if complete else None,
            user_attrs={SHAPE_HASH: "a", OWNER: f"host:/x/{folder}", BEAT: at(beat).astimezone().isoformat()}
            | facts,
        )
        trial.number, trial.datetime_start, trial.datetime_complete = len(self.trials), at(start), at(end)
        self.trials.append(trial)

    def check(self) -> dict[str, int]:
        return check(self.trials, self.rows, self.timings, self.kills, LEASE_S)


@pytest.fixture
def taken_over() -> Story:
    """The first coordinator has measured one GPU when its trial ends; the second measures both."""
    story = Story()
    story.timed("run0", "t4")
    story.trial("run0", 0, 12, 3, **{LOST_BY: "host:/x/run0"})
    story.timed("run1")
    story.trial("run1", 13, 20, 13)
    story.kills.append(Kill("run0", at(4), at(4.1)))
    return story


def test_what_a_killed_coordinator_had_may_be_there_twice(taken_over: Story) -> None:
    taken_over.trials[0].user_attrs[BEAT] = at(11).astimezone().isoformat()
    found = taken_over.check()
    assert found["of these from the killed"] == found["rows of the lost beside the final ones"] == 1


def test_so_may_what_a_silent_one_had(taken_over: Story) -> None:
    taken_over.kills.clear()
    taken_over.trials[0].user_attrs[BEAT] = at(1.9).astimezone().isoformat()
    assert taken_over.check()["of these from the silent"] == 1


@pytest.mark.parametrize("kill", [None, Kill("run1", at(4), at(5)), Kill("run0", at(13), at(14))])
def test_a_trial_that_was_taken_from_the_living_is_refused(taken_over: Story, kill: Kill | None) -> None:
    """Another's kill, or one that came later, is no excuse."""
    taken_over.kills = [kill] if kill else []
    with pytest.raises(AssertionError, match="taken from run0, which lives"):
        taken_over.check()


def test_a_trial_that_its_owner_never_knew_of_has_no_timing(taken_over: Story) -> None:
    taken_over.kills = [Kill("database", at(-1), at(1))]
    with pytest.raises(AssertionError, match="run0 timed it 1 times"):
        taken_over.check()
    taken_over.rows["run0"].clear()
    del taken_over.timings[0]
    assert taken_over.check()["of these from the unanswered"] == 1


def test_a_shape_that_is_complete_twice_is_refused(taken_over: Story) -> None:
    taken_over.trial("run1", 21, 22, 21)
    with pytest.raises(AssertionError, match="ended 2 times"):
        taken_over.check()


def test_a_lost_shape_that_nobody_finishes_is_refused(taken_over: Story) -> None:
    del taken_over.trials[1]
    with pytest.raises(AssertionError, match="ended 0 times"):
        taken_over.check()


def test_a_running_trial_is_refused(taken_over: Story) -> None:
    taken_over.trials[1].state = TrialState.RUNNING
    with pytest.raises(AssertionError, match="left running"):
        taken_over.check()


def test_timing_what_another_has_is_refused(taken_over: Story) -> None:
    """Also where it withdraws afterwards, or was killed before it could."""
    taken_over.trial("run0", 14, 15, 14, **{DUPLICATE_OF: 1})
    assert taken_over.check()
    taken_over.timed("run0", "l4")
    assert taken_over.check()  # the one timing that its first trial still had
    taken_over.timed("run0", "l4")
    with pytest.raises(AssertionError, match="run0 timed it 2 times on l4"):
        taken_over.check()


def test_a_row_twice_in_one_file_is_refused(taken_over: Story) -> None:
    taken_over.trials[1].user_attrs[OWNER] = "host:/x/run0"
    taken_over.rows = {"run0": taken_over.rows["run0"] + taken_over.rows["run1"]}
    taken_over.timings = [("run0", gpu, shape) for _, gpu, shape in taken_over.timings]
    with pytest.raises(AssertionError, match="rows twice in run0"):
        taken_over.check()


def test_figures_that_are_another_ones_rows_are_refused(taken_over: Story) -> None:
    taken_over.trials[1].user_attrs["measured_s"]["t4"] = taken_over.rows["run0"][0]["p50_s"]
    with pytest.raises(AssertionError, match="no row's"):
        taken_over.check()


def test_a_failed_shape_is_final(taken_over: Story) -> None:
    taken_over.trials[1].state = TrialState.FAIL
    taken_over.trials[1].user_attrs[FAILURE] = "crash"
    assert taken_over.check()["failed shapes"] == 1


@pytest.mark.parametrize(
    ("words", "start", "end", "explained"),
    [
        ("the reference cannot be measured: killed by SIGKILL", 0, 1, True),
        ("--storage postgresql://...: cannot be opened: refused", 8, 11, True),
        ("--storage postgresql://...: cannot be opened: refused", 0, 9, False),
        ("--storage postgresql://...: cannot be opened: refused", 13, 14, False),
        ("no such column", 8, 11, False),
    ],
)
def test_a_refusal_needs_a_kill_or_an_outage_of_its_time(
    words: str, start: float, end: float, explained: bool
) -> None:
    kills = [Kill("database", at(10), at(12)), Kill("run0", at(0), at(14))]
    assert is_explained(Refusal(words, at(start), at(end)), kills) == explained
