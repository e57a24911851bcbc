"""The two ways to fill a study: record a front that is known, or explore a space that is too large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from optuna.samplers import TPESampler
from optuna.study import Study

from hwsearch.errors import HwsearchError
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.search.candidates import Candidates, Report, price
from hwsearch.search.leases import Leases
from hwsearch.search.objectives import Objective, limits, losses, objectives, scores
from hwsearch.search.parameters import (
    Key,
    candidate_values,
    distributions,
    key_of,
    keys,
    params_of,
    shapes_of,
)
from hwsearch.search.pareto import MOST_HYPERVOLUME_OBJECTIVES, front_rows, most_covering_first
from hwsearch.search.samplers import FrontSampler, ValidSampler
from hwsearch.search.study import complete_trials, tell
from hwsearch.space.search_space import Removal, SearchSpace, filter_shapes, valid_shapes


@dataclass(frozen=True, eq=False)
class Session:
    """The study that is being filled, by whom, and who listens."""

    study: Study
    leases: Leases
    report: Report
    stop: StopOnInterrupt

    def answer(self, space: SearchSpace, key: Key, candidate: Candidates, reference: Candidates) -> None:
        """Tell what a shape costs, unless another process has it already."""
        varying = distributions(candidate_values(space.file.shape))
        values, excess, facts = _answer(space, candidate, reference)
        trial = self.leases.begin(params_of(key, varying), varying, facts)
        if trial is not None:
            tell(self.study, trial, values, excess, {})
        self.stop.check()


@dataclass(frozen=True, eq=False)
class FrontPlan:
    """The whole grid priced, and its exact front to be recorded, what covers most of it first."""

    space: SearchSpace
    reference: Candidates
    candidates: Candidates
    removals: list[Removal]
    rows: dict[Key, int]
    sampler: FrontSampler

    @classmethod
    def of(cls, space: SearchSpace, reference: Candidates, trials: int, report: Report) -> FrontPlan:
        """Raises HwsearchError where no shape is valid or none keeps to the limits."""
        shapes, removals = valid_shapes(space)
        candidates, limited = within_limits(space, price(space, shapes, report), reference)
        front = front_rows(losses(objectives(space, candidates, reference)))
        report("ordering the front", 0, 1)
        order = _order(objectives(space, candidates.take(front), reference), min(trials, len(front)))
        report("ordering the front", 1, 1)
        chosen = front[order]
        rows = dict(zip(keys(candidates.shapes.take(chosen)), chosen.tolist(), strict=True))
        sampler = FrontSampler(list(rows), candidate_values(space.file.shape))
        return cls(space, reference, candidates, removals + limited, rows, sampler)

    def record(self, session: Session) -> tuple[Candidates, list[Removal]]:
        """Tell the study what it lacks of the front; all candidates, and what removed the others."""
        total = len(self.rows)
        while left := self.sampler.remaining(session.study):
            session.report("recording the front", total - len(left), total)
            candidate = self.candidates.take(np.array([self.rows[left[0]]]))
            session.answer(self.space, left[0], candidate, self.reference)
        session.report("recording the front", total, total)
        return self.candidates, self.removals


@dataclass(frozen=True, eq=False)
class ExplorationPlan:
    """A space that TPE explores, each shape priced as it is asked for."""

    space: SearchSpace
    reference: Candidates
    goal: int
    sampler: ValidSampler

    @classmethod
    def of(cls, space: SearchSpace, reference: Candidates, goal: int, seed: int) -> ExplorationPlan:
        """Raises HwsearchError where random draws find no valid shape."""
        # It sees no running trials: there is one at a time, and what others run is not proposed again.
        sampler = ValidSampler(TPESampler(seed=seed, multivariate=True, constant_liar=False), space, seed)
        sampler.require_valid_shapes()
        return cls(space, reference, goal, sampler)

    def record(self, session: Session) -> tuple[Candidates, list[Removal]]:
        """Explore until `goal` trials are complete or the space is used up; all that keep to the limits."""
        section = self.space.file.shape
        values = candidate_values(section)
        while (done := len(complete_trials(session.study))) < self.goal:
            key = self.sampler.propose(session.study)
            if key is None:
                break
            session.report("exploring", done, self.goal)
            candidate = price(self.space, shapes_of([key], section))
            session.answer(self.space, key, candidate, self.reference)
        session.report("exploring", done, done)
        found = [key_of(trial.params, values) for trial in complete_trials(session.study)]
        explored = shapes_of([key for key in dict.fromkeys(found) if key is not None], section)
        valid, _ = filter_shapes(explored, self.space.constraints)
        return within_limits(self.space, price(self.space, valid), self.reference)


def within_limits(
    space: SearchSpace, candidates: Candidates, reference: Candidates
) -> tuple[Candidates, list[Removal]]:
    """The candidates that keep to every limit. Raises HwsearchError where none does."""
    removals = []
    kept = np.ones(len(candidates), dtype=bool)
    for name, excess in limits(space, candidates, reference).items():
        before = int(kept.sum())
        kept &= excess <= 0
        removals.append(Removal(name, before - int(kept.sum()), int(kept.sum())))
    if not kept.any():
        lines = [f"{r.constraint}: removed {r.removed:,}, {r.left:,} left" for r in removals if r.removed]
        raise HwsearchError(
            f"{space.name}: none of {len(candidates):,} shapes keeps to the limits.\n" + "\n".join(lines)
        )
    return candidates.take(kept), removals


def _order(found: list[Objective], count: int) -> list[int]:
    if len(found) <= MOST_HYPERVOLUME_OBJECTIVES:
        return most_covering_first(losses(found), count)
    # Too many objectives for exact hypervolume: best weighted score first.
    return [int(row) for row in np.argsort(scores(found), kind="stable")[:count]]


def _answer(
    space: SearchSpace, candidate: Candidates, reference: Candidates
) -> tuple[list[float], dict[str, float], dict[str, object]]:
    """One candidate's objective values, excess over each limit, and facts for readers of the dashboard."""
    shape = candidate.shapes.shape(0)
    latency_ms = 1e3 * candidate.latency[:, 0]
    facts: dict[str, object] = {
        "shape": str(shape),
        "shape_hash": shape.hash(),
        "source": "predicted",
        "latency_ms": {gpu.name: round(float(ms), 6) for gpu, ms in zip(space.gpus, latency_ms, strict=True)},
    }
    values = [float(objective.values[0]) for objective in objectives(space, candidate, reference)]
    excess = {name: float(found[0]) for name, found in limits(space, candidate, reference).items()}
    return values, excess, facts
