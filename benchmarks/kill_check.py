"""What a study must hold after kills, and what may be there twice; benchmarks/kill.py asks.

A trial that is no duplicate is a claim of its shape. Whatever was killed, of each claimed shape

* one claim is COMPLETE, or failed because its worker was killed; every other one was lost, and for a reason
  that is on record (`why_lost`): nothing is taken from a coordinator that lives and beats;
* each timing is by a coordinator that had claimed it, one a claim and GPU. So a second timing, or a second
  row, is there only where the claim before it was lost;
* no file holds the row of a GPU twice, for a coordinator reads its file before it asks;
* the study's figures are rows of the coordinator that told them.

No trial is left running. A timing whose coordinator died before it wrote the row was not finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hwsearch.search.measured.coordinator import REFERENCE_FAILURE
from hwsearch.search.storage.leases import BEAT, DUPLICATE_OF, FAILURE, LOST_BY, OWNER, SHAPE_HASH

KILLED, SILENT, UNANSWERED = "killed", "silent", "unanswered"
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Kill:
    """Of `victim`, or a process of it: a run's folder, or "database", away from `start` to `end`."""

    victim: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Refusal:
    """The last words of a coordinator that ended with an error, and when it ran."""

    words: str
    start: datetime
    end: datetime


def victims(kills: Iterable[Kill], start: datetime, end: datetime) -> set[str]:
    """Who was killed, or away, between two moments."""
    return {kill.victim for kill in kills if kill.end >= start and kill.start <= end}


def is_explained(refusal: Refusal, kills: Iterable[Kill]) -> bool:
    """A reference whose worker was killed ends its run, and so does a database that is away as the run opens
    it; the next run goes on."""
    away = "database" in victims(kills, refusal.start, refusal.end)
    return "SIGKILL" in refusal.words or (away and "cannot be opened" in refusal.words)


def why_lost(trial: FrozenTrial, kills: Iterable[Kill], lease_s: float) -> str | None:
    """Why a trial was taken from its owner; None where it should not have been.

    KILLED: the owner was, while it had the trial. SILENT: its last beat was a lease old. UNANSWERED: the
    database was killed, so that the owner never learned that it had made the trial, and made another one.
    """
    begun, ended = trial.datetime_start, trial.datetime_complete
    assert begun is not None and ended is not None
    during = victims(kills, begun, ended)
    if owner_of(trial) in during:
        return KILLED
    silence = ended.astimezone() - datetime.fromisoformat(trial.user_attrs[BEAT])
    if silence >= timedelta(seconds=lease_s):
        return SILENT
    return UNANSWERED if "database" in during else None


def owner_of(trial: FrozenTrial) -> str:
    """The name of its coordinator's folder."""
    return str(trial.user_attrs[OWNER]).rpartition("/")[2]


def check(
    trials: Sequence[FrozenTrial],
    rows: Mapping[str, Rows],
    timings: Sequence[tuple[str, str, str]],
    kills: Sequence[Kill],
    lease_s: float,
) -> dict[str, int]:
    """Counts of what was found. Raises AssertionError where the study does not hold what it must.

    Args:
        rows: of measurements.jsonl, by folder.
        timings: (folder, GPU, shape hash), as the devices have written them down.
    """
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert not [trial.number for trial in trials if not trial.state.is_finished()], "left running"
    claims: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if DUPLICATE_OF in trial.user_attrs:
            assert trial.state == TrialState.FAIL, f"trial {trial.number}: a duplicate is complete"
        else:
            claims.setdefault(trial.user_attrs[SHAPE_HASH], []).append(trial)
    measured = Counter(
        (folder, row["gpu"], row["shape_hash"])
        for folder, found in rows.items()
        for row in found
        if row["source"] == "measured"
    )
    timed = Counter(timings)
    assert measured <= timed, "a row without a timing"
    assert {shape for _, _, shape in timed} <= claims.keys(), "timed without a trial"
    reasons: Counter[str] = Counter()
    for shape, found in claims.items():
        final = [trial for trial in found if _is_final(trial)]
        assert len(final) == 1, f"{shape}: ended {len(final)} times"
        entitled = Counter([owner_of(final[0])])
        for trial in found:
            if _is_final(trial):
                continue
            assert trial.state == TrialState.FAIL
            if LOST_BY not in trial.user_attrs:
                assert REFERENCE_FAILURE in trial.user_attrs, f"trial {trial.number}: failed without a reason"
                entitled[owner_of(trial)] += 1
                continue
            why = why_lost(trial, kills, lease_s)
            assert why is not None, f"trial {trial.number}: taken from {owner_of(trial)}, which lives"
            reasons[why] += 1
            # The owner of a later one died before it could find that the shape was taken.
            entitled[owner_of(trial)] += why != UNANSWERED and trial.number < final[0].number
        for (folder, gpu, timed_shape), times in timed.items():
            if timed_shape == shape:
                assert times <= entitled[folder], f"{shape}: {folder} timed it {times} times on {gpu}"
                # A coordinator asks neither for what its own file holds nor for what is under way.
                assert measured[folder, gpu, shape] <= 1, f"{shape}: rows twice in {folder}"
        if final[0].state == TrialState.COMPLETE:
            _check_values(final[0], rows[owner_of(final[0])])
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    shapes_on_gpus = len({(gpu, shape) for _, gpu, shape in measured})
    return {
        "shapes": len(complete),
        "failed shapes": len(claims) - len(complete),
        "trials taken back": reasons.total(),
        **{f"of these from the {why}": reasons[why] for why in (KILLED, SILENT, UNANSWERED)},
        "rows": measured.total(),
        "rows of the lost beside the final ones": measured.total() - shapes_on_gpus,
        "timings without a row": timed.total() - measured.total(),
    }


def _is_final(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE or FAILURE in trial.user_attrs


def _check_values(trial: FrozenTrial, rows: Rows) -> None:
    """No two timings agree, so that figures say which rows they are."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["source"] == "measured" and row["shape_hash"] == trial.user_attrs[SHAPE_HASH]:
            found.setdefault(row["gpu"], []).append(row["p50_s"])
    told = trial.user_attrs["measured_s"]
    assert told.keys() == found.keys() == {"t4", "l4"}, f"trial {trial.number}: on {sorted(told)}"
    for gpu, seconds in told.items():
        assert any(abs(seconds / each - 1) < 1e-9 for each in found[gpu]), f"trial {trial.number}: no row's"
