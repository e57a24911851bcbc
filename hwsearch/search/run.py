"""One run: enumerate or explore a space, price it, record it in a study, write the winners."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from optuna.samplers import TPESampler
from optuna.study import Study

from hwsearch.errors import HwsearchError
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.search.candidates import Candidates, Report, price, silent
from hwsearch.search.journal import mend_journal
from hwsearch.search.objectives import Objective, limits, objectives, scores
from hwsearch.search.parameters import Key, candidate_values, distributions, key_of, keys, shapes_of
from hwsearch.search.pareto import (
    MOST_HYPERVOLUME_OBJECTIVES,
    front_rows,
    most_covering_first,
)
from hwsearch.search.result import RunResult
from hwsearch.search.run_files import write_run
from hwsearch.search.run_folder import RunFolder, claim
from hwsearch.search.samplers import FrontSampler, ValidSampler
from hwsearch.search.study import (
    complete_trials,
    fail_stale_trials,
    open_storage,
    open_study,
    record,
    without_password,
)
from hwsearch.search.winners import best_by_weight, fastest_no_worse, like_for_like
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import LARGEST_GRID, Removal, SearchSpace, valid_shapes

SamplerName = Literal["front", "tpe"]
# A front is recorded whole up to this many shapes; front.csv always holds all of it.
DEFAULT_FRONT_TRIALS = 1000
DEFAULT_TPE_TRIALS = 200


def run(
    space: SearchSpace,
    *,
    sampler: SamplerName | None = None,
    trials: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    storage: str | None = None,
    report: Report = silent,
    warn: Callable[[str], None] = lambda message: None,
) -> RunResult:
    """Search `space` with predicted costs; a run that was stopped goes on from its study.

    Args:
        sampler: front enumerates and records the exact Pareto front (the default up to
            5,000,000 shapes), tpe explores.
        trials: complete trials to reach in total.
        out: the run's folder, runs/<space> by default.
        storage: any Optuna storage URL; the folder's journal by default.
        report, warn: called with progress and with warnings.

    Raises HwsearchError for an infeasible space, a folder or a study of another run, and a full disk;
    KeyboardInterrupt after the trial in progress.
    """
    if trials is not None and trials < 1:
        raise HwsearchError(f"--trials: {trials}; accepted: 1 or more")
    if sampler is None:
        sampler = "front" if space.size <= LARGEST_GRID else "tpe"
    reference = price(space, ShapeTable.of([space.reference]))
    # Whatever can be refused is refused before the folder is touched.
    search: _FrontSearch | _Exploration
    if sampler == "front":
        search = _FrontSearch.plan(space, reference, trials or DEFAULT_FRONT_TRIALS, report)
    else:
        search = _Exploration.plan(space, reference, trials or DEFAULT_TPE_TRIALS, seed)
    shared = None if storage is None else open_storage(storage)
    # Interrupts wait for the end of a trial: Optuna's journal must not be left in the middle of a write.
    inputs = _inputs(space, sampler, seed, storage)
    with claim(out or Path("runs") / space.name, inputs) as folder, StopOnInterrupt() as stop:
        if shared is None and (message := mend_journal(folder.journal)):
            warn(message)
        try:
            study = open_study(
                shared or open_storage(str(folder.journal)),
                space.name,
                space.identity(),
                {o.name: o.direction for o in objectives(space, reference, reference)},
                search.sampler,
            )
            if shared is None:
                fail_stale_trials(study)
            candidates, removals = search.record(study, report, stop)
            result = _result(space, folder, candidates, reference, removals, len(complete_trials(study)))
            write_run(result, report)
        except OSError as error:
            raise HwsearchError(
                f"{folder.path}: cannot write: {error.strerror or error}; finished trials are kept"
            ) from error
    return result


@dataclass(frozen=True, eq=False)
class _FrontSearch:
    """The whole grid priced, and its exact front to be recorded, what covers most of it first."""

    space: SearchSpace
    reference: Candidates
    candidates: Candidates
    removals: list[Removal]
    rows: dict[Key, int]
    sampler: FrontSampler

    @classmethod
    def plan(cls, space: SearchSpace, reference: Candidates, trials: int, report: Report) -> _FrontSearch:
        shapes, removals = valid_shapes(space)
        candidates, limited = _within_limits(space, price(space, shapes, report), reference)
        front = front_rows(_losses(objectives(space, candidates, reference)))
        report("ordering the front", 0, 1)
        order = _order(objectives(space, candidates.take(front), reference), min(trials, len(front)))
        report("ordering the front", 1, 1)
        chosen = front[order]
        rows = dict(zip(keys(candidates.shapes.take(chosen)), chosen.tolist(), strict=True))
        sampler = FrontSampler(list(rows), candidate_values(space.file.shape))
        return cls(space, reference, candidates, removals + limited, rows, sampler)

    def record(self, study: Study, report: Report, stop: StopOnInterrupt) -> tuple[Candidates, list[Removal]]:
        values, total = candidate_values(self.space.file.shape), len(self.rows)
        left = self.sampler.remaining(study)
        for done in range(total - left, total):
            report("recording the front", done, total)
            trial = study.ask(distributions(values))
            row = self.rows[key_of(trial.params, values)]
            _record(self.space, study, trial, self.candidates.take(np.array([row])), self.reference)
            stop.check()
        report("recording the front", total, total)
        return self.candidates, self.removals


@dataclass(frozen=True, eq=False)
class _Exploration:
    """A space that TPE explores, each shape priced as it is asked for."""

    space: SearchSpace
    reference: Candidates
    goal: int
    sampler: ValidSampler

    @classmethod
    def plan(cls, space: SearchSpace, reference: Candidates, goal: int, seed: int) -> _Exploration:
        sampler = ValidSampler(TPESampler(seed=seed, multivariate=True), space, seed)
        sampler.require_valid_shapes()
        return cls(space, reference, goal, sampler)

    def record(self, study: Study, report: Report, stop: StopOnInterrupt) -> tuple[Candidates, list[Removal]]:
        section = self.space.file.shape
        values = candidate_values(section)
        while (done := len(complete_trials(study))) < self.goal:
            report("exploring", done, self.goal)
            trial = study.ask(distributions(values))
            shapes = shapes_of([key_of(trial.params, values)], section)
            _record(self.space, study, trial, price(self.space, shapes), self.reference)
            stop.check()
        report("exploring", self.goal, self.goal)
        shapes = shapes_of([key_of(trial.params, values) for trial in complete_trials(study)], section)
        return _within_limits(self.space, price(self.space, shapes), self.reference)


def _record(
    space: SearchSpace, study: Study, trial: Any, candidate: Candidates, reference: Candidates
) -> None:
    """Tell the study one candidate's values, limits and what a reader of the dashboard wants to see."""
    shape = candidate.shapes.shape(0)
    facts = {
        "shape": str(shape),
        "shape_hash": shape.hash(),
        "source": "predicted",
        "latency_ms": {
            gpu.name: round(1e3 * float(candidate.latency[row, 0]), 6) for row, gpu in enumerate(space.gpus)
        },
    }
    found = objectives(space, candidate, reference)
    excess = {name: float(values[0]) for name, values in limits(space, candidate, reference).items()}
    record(study, trial, [float(objective.values[0]) for objective in found], excess, facts)


def _within_limits(
    space: SearchSpace, candidates: Candidates, reference: Candidates
) -> tuple[Candidates, list[Removal]]:
    removals = []
    total = len(candidates)
    kept = np.ones(total, dtype=bool)
    for name, excess in limits(space, candidates, reference).items():
        before = int(kept.sum())
        kept &= excess <= 0
        removals.append(Removal(name, before - int(kept.sum()), int(kept.sum())))
    if not kept.any():
        lines = [f"{r.constraint}: removed {r.removed:,}, {r.left:,} left" for r in removals if r.removed]
        raise HwsearchError(
            f"{space.name}: none of {total:,} shapes keeps to the limits.\n" + "\n".join(lines)
        )
    return candidates.take(kept), removals


def _result(
    space: SearchSpace,
    folder: RunFolder,
    candidates: Candidates,
    reference: Candidates,
    removals: list[Removal],
    recorded: int,
) -> RunResult:
    all_objectives = objectives(space, candidates, reference)
    front = candidates.take(front_rows(_losses(all_objectives)))
    found = objectives(space, front, reference)
    return RunResult(
        space=space,
        folder=folder,
        candidates=candidates,
        front=front,
        objectives=found,
        reference=reference,
        winners=best_by_weight(front, found, space.file.winners),
        fastest_no_worse=fastest_no_worse(candidates, all_objectives, reference),
        like_for_like=like_for_like(candidates, reference),
        removals=removals,
        recorded=recorded,
    )


def _order(found: list[Objective], count: int) -> list[int]:
    losses = _losses(found)
    if len(found) <= MOST_HYPERVOLUME_OBJECTIVES:
        return most_covering_first(losses, count)
    # Too many objectives for exact hypervolume: best weighted score first.
    return [int(row) for row in np.argsort(scores(found), kind="stable")[:count]]


def _losses(found: list[Objective]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([objective.losses for objective in found], axis=1)


def _inputs(space: SearchSpace, sampler: str, seed: int, storage: str | None) -> dict[str, Any]:
    """What decides the answer, in plain data; a run folder takes no other."""
    profiles = [(gpu, gpu.calibration) for gpu in space.gpus]
    return {
        "space": space.name,
        "space_file": {
            **space.file.model_dump(mode="json", exclude={"reference"}),
            "reference": space.reference.to_dict(),
        },
        "basket": dict(zip((gpu.name for gpu in space.gpus), space.weights, strict=True)),
        "sampler": sampler,
        "seed": seed,
        "storage": without_password(storage or "study.log"),
        # Predictions made with other GPU constants must not be mixed into one study.
        "gpu_profiles": hashlib.sha256(repr(profiles).encode()).hexdigest()[:16],
    }
