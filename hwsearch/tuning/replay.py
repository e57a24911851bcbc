"""The tuner on a recorded device: the very optimizer that drives measurements, on other people's times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.sampler import FAILURE, KernelSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Evaluation:
    """One line of a trace.

    Attributes:
        evaluation: counts from 1 within a seed.
        recorded_seconds: what all evaluations so far cost when they were recorded.
        time: in the record's own unit, or the record's name for how it failed.
        best: the lowest time so far, None before the first success.
        overhead_s: what proposing it took here; no part of the trace.
    """

    seed: int
    evaluation: int
    recorded_seconds: float
    time: float | str
    best: float | None
    overhead_s: float

    def line(self) -> str:
        return json.dumps(
            {
                "seed": self.seed,
                "evaluation": self.evaluation,
                "recorded_seconds": self.recorded_seconds,
                "time": self.time,
                "best": self.best,
            }
        )


def replay(recorded: RecordedSpace, budget_s: float, seed: int) -> Iterator[Evaluation]:
    """Tune until the next evaluation would exceed `budget_s` recorded seconds, or none is left."""
    study = optuna.create_study(sampler=KernelSampler(recorded.space, seed))
    spent, best = 0.0, None
    for number in range(1, len(recorded) + 1):
        start = time.perf_counter()
        trial = study.ask(dict(recorded.space.distributions))
        overhead = time.perf_counter() - start
        row = recorded.space.row_of(trial.params)
        assert row is not None
        spent += float(recorded.seconds[row])
        if spent > budget_s:
            return
        failure = recorded.failures.get(row)
        found: float | str = failure if failure else float(recorded.times[row])
        start = time.perf_counter()
        if isinstance(found, str):
            trial.set_user_attr(FAILURE, found)
            study.tell(trial, state=TrialState.FAIL)
        else:
            best = found if best is None else min(best, found)
            study.tell(trial, found)
        overhead += time.perf_counter() - start
        yield Evaluation(seed, number, spent, found, best, overhead)
