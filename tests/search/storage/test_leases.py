"""Leases: one coordinator measures a shape, and what a dead one had is measured by another."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from postgres_server import Postgres

from hwsearch.search.storage.leases import BEAT, DUPLICATE_OF, FAILURE, LOST_BY, OWNER, Leases, is_settled
from hwsearch.search.storage.study import open_storage

DEPTH: dict[str, BaseDistribution] = {"num_hidden_layers": IntDistribution(1, 60)}
LEASE_S = 30.0
SHAPES = 25


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else str(tmp_path / "study.log")


def study_at(url: str) -> Study:
    """The study as one more coordinator sees it, with a connection and a cache of its own."""
    return optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)


def begin(leases: Leases, depth: int, **facts: Any) -> Trial | None:
    return leases.begin({"num_hidden_layers": depth}, DEPTH, facts)


def begun(leases: Leases, depth: int, **facts: Any) -> Trial:
    trial = begin(leases, depth, **facts)
    assert trial is not None
    return trial


def test_a_trial_is_whole_from_its_first_moment(url: str) -> None:
    trial = begun(Leases(study_at(url), "me", alone=False), 12, shape="L12")
    (seen,) = study_at(url).trials
    assert seen.number == trial.number and seen.state == TrialState.RUNNING
    assert seen.params == trial.params == {"num_hidden_layers": 12}
    assert seen.user_attrs["shape"] == "L12" and seen.user_attrs[OWNER] == "me"


def test_one_of_two_coordinators_gets_a_shape(url: str) -> None:
    ours, theirs = (Leases(study_at(url), name, alone=False) for name in ("ours", "theirs"))
    trial = begun(ours, 12)
    assert begin(theirs, 12) is None
    begun(theirs, 13)
    study_at(url).tell(trial.number, 1.0)
    assert begin(theirs, 12) is None and begin(ours, 12) is None
    doubles = [each for each in study_at(url).trials if each.user_attrs.get(DUPLICATE_OF) == trial.number]
    assert len(doubles) == 3 and {each.state for each in doubles} == {TrialState.FAIL}
    assert not any(map(is_settled, doubles))


def test_what_failed_of_itself_is_not_tried_again_and_what_was_lost_is(url: str) -> None:
    leases = Leases(study_at(url), "me", alone=False)
    tired, broken = begun(leases, 1), begun(leases, 2)
    broken.set_user_attr(FAILURE, "out of memory")
    for trial in (tired, broken):
        study_at(url).tell(trial.number, state=TrialState.FAIL)
    assert begin(leases, 2) is None
    begun(leases, 1)


def test_shapes_outside_the_parameters_are_told_apart_by_their_hash(url: str) -> None:
    leases = Leases(study_at(url), "me", alone=False)
    assert leases.begin({}, {}, {"shape_hash": "a"}) is not None
    assert leases.begin({}, {}, {"shape_hash": "b"}) is not None
    assert leases.begin({}, {}, {"shape_hash": "a"}) is None


def test_a_beating_trial_is_kept_and_a_silent_one_is_lost(url: str) -> None:
    clock = Clock()
    ours, theirs = (Leases(study_at(url), n, alone=False, lease_s=LEASE_S, clock=clock) for n in "ab")
    trial = begun(theirs, 12)
    for _ in range(20):  # ten leases long
        clock.now += LEASE_S / 2
        theirs.renew()
        assert ours.recover() == []
    lost: list[FrozenTrial] = []
    for _ in range(5):
        clock.now += LEASE_S / 4
        lost += ours.recover()
    assert [each.number for each in lost] == [trial.number]
    after = study_at(url).trials[trial.number]
    assert after.state == TrialState.FAIL and after.user_attrs[LOST_BY] == "b"
    begun(ours, 12)
    clock.now += LEASE_S
    theirs.renew()  # finds that it was taken for dead, and lets go of it


def test_no_trial_is_lost_before_its_lease_has_been_watched(url: str) -> None:
    """A watcher that was stopped, or waited for the storage, has not seen the others beat meanwhile."""
    clock = Clock()
    ours, theirs = (Leases(study_at(url), n, alone=False, lease_s=LEASE_S, clock=clock) for n in "ab")
    begun(theirs, 12)
    assert ours.recover() == []
    clock.now += 100 * LEASE_S
    assert ours.recover() == []
    theirs.renew()
    clock.now += LEASE_S / 2
    assert ours.recover() == []


def test_a_beat_is_written_once_a_third_of_the_lease(url: str) -> None:
    clock = Clock()
    leases = Leases(study_at(url), "me", alone=False, lease_s=LEASE_S, clock=clock)
    trial, reader = begun(leases, 12), study_at(url)
    beats = set()
    for _ in range(90):
        clock.now += LEASE_S / 30
        leases.renew()
        beats.add(reader.trials[trial.number].user_attrs[BEAT])
    assert 8 <= len(beats) <= 10


def test_an_earlier_process_of_the_same_owner_is_dead(url: str) -> None:
    begun(Leases(study_at(url), "host:run", alone=False), 12)
    other = begun(Leases(study_at(url), "host:other", alone=False), 13)
    again = Leases(study_at(url), "host:run", alone=False)
    mine = begun(again, 14)
    assert [trial.params["num_hidden_layers"] for trial in again.recover()] == [12]
    running = study_at(url).get_trials(states=(TrialState.RUNNING,))
    assert [trial.number for trial in running] == [other.number, mine.number]


def test_alone_every_foreign_trial_is_dead_and_nothing_beats(url: str) -> None:
    begun(Leases(study_at(url), "another machine", alone=False), 12)
    study_at(url).ask()  # by hand, or killed before it said whose it is
    clock = Clock()
    leases = Leases(study_at(url), "me", alone=True, clock=clock)
    assert len(leases.recover()) == 2
    trial = begun(leases, 12)
    first = study_at(url).trials[trial.number].user_attrs[BEAT]
    clock.now += 1000
    leases.renew()
    assert leases.recover() == []
    assert study_at(url).trials[trial.number].user_attrs[BEAT] == first


def test_one_of_several_watchers_recovers_a_trial(url: str) -> None:
    begun(Leases(study_at(url), "dead", alone=False), 12)
    watchers = [Leases(study_at(url), "dead", alone=False) for _ in range(3)]
    assert sorted(len(watcher.recover()) for watcher in watchers) == [0, 0, 1]


def test_a_lost_shape_is_unclaimed_until_somebody_begins_it(url: str) -> None:
    """Whoever ended its trial may have died since; its owner asks when it is there again."""
    begun(Leases(study_at(url), "me", alone=False), 12)
    begun(Leases(study_at(url), "other", alone=False), 13)
    for owner in ("me", "other"):
        assert len(Leases(study_at(url), owner, alone=False).recover()) == 1
    mine = Leases(study_at(url), "me", alone=False)
    assert [trial.params["num_hidden_layers"] for trial in mine.unclaimed()] == [12]
    assert len(Leases(study_at(url), "moved", alone=True).unclaimed()) == 2
    begun(Leases(study_at(url), "other", alone=False), 12)
    assert mine.unclaimed() == []


def coordinate(url: str, owner: str, measured: Path, abreast: Barrier | None) -> None:
    """Propose the lowest free shape, as all the others do, "measure" it, tell; until all are measured.

    Those that start `abreast` have all chosen their first shape before any begins it; who starts alone dies
    with its third.
    """
    study = study_at(url)
    leases = Leases(study, owner, alone=False, lease_s=6.0)
    chance = random.Random(owner)
    first = True
    while True:
        leases.renew()
        leases.recover()
        trials = study.get_trials(deepcopy=False)
        done = {t.params["num_hidden_layers"] for t in trials if t.state == TrialState.COMPLETE}
        if len(done) == SHAPES:
            return
        free = {*range(1, SHAPES + 1)} - {t.params["num_hidden_layers"] for t in trials if is_settled(t)}
        if not free:
            time.sleep(0.02)
            continue
        depth = min(free)
        if abreast and first:
            abreast.wait(300)
        first = False
        trial = begin(leases, depth)
        if trial is None:
            continue
        if abreast is None and depth == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 * chance.random())
        with open(measured, "a") as file:
            file.write(f"{depth}\n")
        study.tell(trial, float(depth))


@pytest.mark.parametrize("storage", ["journal", "postgres"])
def test_four_coordinators_measure_every_shape_once(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """They all want the same shape at every moment; a fourth has died before them with one in its hands."""
    server: Postgres | None = request.getfixturevalue("postgres") if storage == "postgres" else None
    url = server.new_database() if server else str(tmp_path / "study.log")
    study_at(url)
    fork = multiprocessing.get_context("fork")
    measured = tmp_path / "measured.txt"
    abreast = fork.Barrier(3)
    crowd = [
        fork.Process(target=coordinate, args=(url, f"coordinator {n}", measured, abreast if n else None))
        for n in range(4)
    ]
    crowd[0].start()
    crowd[0].join(300)
    for each in crowd[1:]:
        each.start()
    for each in crowd[1:]:
        each.join(300)
    assert [each.exitcode for each in crowd] == [-signal.SIGKILL, 0, 0, 0]
    trials = study_at(url).trials
    complete = Counter(t.params["num_hidden_layers"] for t in trials if t.state == TrialState.COMPLETE)
    assert complete == Counter(range(1, SHAPES + 1))
    assert Counter(map(int, measured.read_text().split())) == complete
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert any(LOST_BY in trial.user_attrs for trial in trials)
    assert sum(DUPLICATE_OF in trial.user_attrs for trial in trials) >= 2
