"""Who measures which shape: trials claimed in one write, kept by a beat, and taken back from the dead.

Several coordinators may share a study in a database; no lock is held but the ones Optuna takes for a write.
Optuna 5 numbers a study's trials in the order of their commits: RDBStorage.create_new_trial locks the study's
row while it inserts a trial and counts those before it (SQLite's write lock does the same), and a journal is
one sequence of lines. So whoever has read its own trial's number can read every trial with a lower one, and
of several trials of one shape the lowest that still counts is the one that is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

# Attributes of a trial.
OWNER = "owner"
BEAT = "beat"
SHAPE_HASH = "shape_hash"
FAILURE = "failure"
DUPLICATE_OF = "duplicate_of"
LOST_BY = "lost_by"

BEATS_PER_LEASE = 3
LEASE_S = 60.0


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a trial's shape needs no other trial: it is running, complete, or failed for a reason of its
    own. One that was lost or doubled says nothing about its shape."""
    return trial.state in (TrialState.RUNNING, TrialState.COMPLETE) or FAILURE in trial.user_attrs


class Leases:
    """The running trials of one coordinator, and its watch over those of others.

    Args:
        owner: one process at a time may bear this name, such as the holder of a run's folder.
        alone: nobody else can use the storage, so every running trial that is not ours is a dead one's.
        lease_s: a trial of another owner whose beat has not changed for so long is lost. It is counted by
            this process's own clock, so the clocks of two machines are never compared; at most a third of
            it counts between two looks, so that a pause of ours or of the storage takes nobody's trials.
        clock: seconds, never going back.

    Not for several threads at once.
    """

    def __init__(
        self,
        study: Study,
        owner: str,
        *,
        alone: bool,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study = study
        self._owner = owner
        self._alone = alone
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._lease_s = lease_s
        self._clock = clock
        self._mine: set[int] = set()
        self._last_beat = clock()
        self._last_look = clock()
        self._watched_s = 0.0
        self._seen: dict[int, tuple[object, float]] = {}

    def begin(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        facts: Mapping[str, Any],
    ) -> Trial | None:
        """A running trial of these parameters, or None where another trial has the shape already.

        `facts` become the trial's attributes; where there is a "shape_hash" it tells shapes apart too.
        """
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs={**facts, OWNER: self._owner, BEAT: _now()},
        )
        trial_id = self._study._storage.create_new_trial(self._study._study_id, template)
        trial = Trial(self._study, trial_id)
        for earlier in self._study.get_trials(deepcopy=False):
            if _same_shape(earlier, template) and earlier.number < trial.number and is_settled(earlier):
                self._fail(trial_id, DUPLICATE_OF, earlier.number)
                return None
        self._mine.add(trial.number)
        return trial

    def renew(self) -> None:
        """Beat for every own running trial, once a third of the lease has passed; to be called often."""
        now = self._clock()
        if self._alone or now - self._last_beat < self._beat_s:
            return
        self._last_beat = now
        running = self._running()
        self._mine &= running.keys()
        for number in sorted(self._mine):
            try:
                self._study._storage.set_trial_user_attr(running[number]._trial_id, BEAT, _now())
            except UpdateFinishedTrialError:  # somebody else took it for dead
                self._mine.discard(number)

    def recover(self) -> list[FrozenTrial]:
        """Fail the trials that nobody beats for any more, so that their shapes may be proposed again; to be
        called often.

        Those of our own name that this process did not begin are an earlier process's, and lost at once.
        Of several coordinators one takes a trial; it is in that one's answer alone.
        """
        now = self._clock()
        self._watched_s += min(now - self._last_look, self._beat_s)
        self._last_look = now
        running = self._running()
        self._seen = {number: seen for number, seen in self._seen.items() if number in running}
        lost = [trial for number, trial in running.items() if number not in self._mine and self._lost(trial)]
        return [trial for trial in lost if self._fail(trial._trial_id, LOST_BY, trial.user_attrs.get(OWNER))]

    def unclaimed(self) -> list[FrozenTrial]:
        """Trials of our name that were lost, and whose shapes nobody has begun since: whoever fails a trial
        may die before it begins another."""
        trials = self._study.get_trials(deepcopy=False)
        lost = [
            trial
            for trial in trials
            if LOST_BY in trial.user_attrs and (self._alone or trial.user_attrs[LOST_BY] == self._owner)
        ]
        settled = [trial for trial in trials if is_settled(trial)] if lost else []
        return [trial for trial in lost if not any(_same_shape(trial, other) for other in settled)]

    def _lost(self, trial: FrozenTrial) -> bool:
        if self._alone or trial.user_attrs.get(OWNER) == self._owner:
            return True
        beat = trial.user_attrs.get(BEAT)
        last, since = self._seen.get(trial.number, (None, None))
        if since is None or beat != last:
            self._seen[trial.number] = (beat, self._watched_s)
            return False
        return self._watched_s - since >= self._lease_s

    def _running(self) -> dict[int, FrozenTrial]:
        found = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.number: trial for trial in found}

    def _fail(self, trial_id: int, attribute: str, value: object) -> bool:
        """Whether it was this call that ended the trial."""
        storage = self._study._storage
        try:
            storage.set_trial_user_attr(trial_id, attribute, value)
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True


def _same_shape(trial: FrozenTrial, other: FrozenTrial) -> bool:
    return trial.params == other.params and trial.user_attrs.get(SHAPE_HASH) == other.user_attrs.get(
        SHAPE_HASH
    )


def _now() -> str:
    """Changes with every beat; the time is for whoever reads the study."""
    return datetime.now(UTC).isoformat()
