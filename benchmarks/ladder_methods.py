"""Ways to choose what to measure next, replayed: the ladder, its prediction alone, and Optuna's samplers.

Every method measures a row once: Optuna's samplers draw the problem's parameters, and the nearest row that
has not been measured takes the draw's place, with its own parameters told to the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from ladder_problems import Problem
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hwsearch.regression.covariance import Floats
from hwsearch.search.measured.ladder import Ladder
from hwsearch.search.measured.residual import Measured, Rows
from hwsearch.search.pareto import front_rows, most_covering_first

CHECKPOINTS = (10, 25, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500, 700, 1000)


@dataclass(frozen=True)
class Score:
    """After so many measurements.

    Attributes:
        believed: share of the true hypervolume that those measured rows have which the method believes to be
            on the front.
        measured: the same of all measured rows.
        chosen: `Problem.excess` of the rows that the method takes for the fastest, None where it has none.
        best: the same of the rows that are the fastest of those measured.
        unmeasured: of the rows, measured or not, that the ladder believes to be on the front.
    """

    measurements: int
    believed: float
    measured: float
    chosen: float | None
    best: float | None
    unmeasured: float | None = None


Method = Callable[[Problem, int, int], Iterator[Score]]
"""Scores at the checkpoints, given a problem, a seed and how much to measure."""


def ladder(problem: Problem, seed: int, count: int) -> Iterator[Score]:
    predicted_s, exact = problem.predicted_s[None], problem.exact

    def losses_of(seconds: Any, rows: Any) -> Any:
        return np.c_[seconds[0], exact[rows]]

    searcher = Ladder(predicted_s, problem.features, losses_of)
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    seconds: list[float] = []
    for number in range(1, count + 1):
        row = searcher.next_row(_measured(rows, seconds, problem.noise))
        if row is not None:  # else it has stopped, and keeps what it has
            rows.append(row)
            seconds.append(problem.measure(row, generator))
        if number in CHECKPOINTS:
            measured = _measured(rows, seconds, problem.noise)
            everything = np.arange(len(exact))
            believed_s = predicted_s * np.exp(searcher.learn(measured).mean(everything))
            yield _score(
                number,
                problem,
                measured.rows,
                believed_s[0, measured.rows],
                searcher.front(measured),
                problem.share(front_rows(losses_of(believed_s, everything))),
            )


def hindsight(problem: Problem, seed: int, count: int) -> Iterator[Score]:
    """The ladder on the prediction of a model that was fitted to all the true times.

    More than this nobody can know of a shape before it is measured.
    """
    if problem.fitted_s is None:
        raise ValueError(f"{problem.name}: nothing is fitted to its times")
    yield from ladder(replace(problem, predicted_s=problem.fitted_s), seed, count)


def _measured(rows: list[int], seconds: list[float], noise: float) -> Measured:
    found = np.array([seconds])
    return Measured(np.array(rows, dtype=np.int64), found, np.full_like(found, noise))


def prediction(problem: Problem, seed: int, count: int) -> Iterator[Score]:
    """The predicted front, what covers most of it first, then the front of the rest; nothing is learned."""
    losses = np.c_[problem.predicted_s, problem.exact]
    left = np.arange(len(losses))
    order: list[int] = []
    while len(order) < count and len(left):
        front = left[front_rows(losses[left])]
        order += front[most_covering_first(losses[front], count - len(order))].tolist()
        left = np.setdiff1d(left, front)
    generator = np.random.default_rng(seed)
    yield from _scores(problem, ((row, problem.measure(row, generator)) for row in order))


def oracle(problem: Problem, seed: int, count: int) -> Iterator[Score]:
    """The true front, what covers most of it first: what nobody can know."""
    front = front_rows(problem.losses)
    order = front[most_covering_first(problem.losses[front], count)]
    for number in CHECKPOINTS:
        if number <= count:
            yield _score(number, problem, order[:number], problem.true_s[order[:number]], order[:number])


def optuna_method(sampler: Callable[[int], BaseSampler]) -> Method:
    def run(problem: Problem, seed: int, count: int) -> Iterator[Score]:
        inner = NearestNew(sampler(seed), problem)
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=inner)
        generator = np.random.default_rng(seed)

        def asked() -> Iterator[tuple[int, float]]:
            for number in range(min(count, len(problem.true_s))):
                trial = study.ask(inner.distributions)
                row = inner.rows[number]
                seconds = problem.measure(row, generator)
                study.tell(trial, [seconds, float(problem.exact[row])])
                yield row, seconds

        yield from _scores(problem, asked())

    return run


METHODS: dict[str, Method] = {
    "oracle": oracle,
    "hindsight": hindsight,
    "ladder": ladder,
    "prediction alone": prediction,
    "tpe": optuna_method(lambda seed: TPESampler(seed=seed, multivariate=True)),
    "nsga2": optuna_method(lambda seed: NSGAIISampler(seed=seed, population_size=16)),
    "gp": optuna_method(lambda seed: GPSampler(seed=seed)),
    "random": optuna_method(lambda seed: RandomSampler(seed=seed)),
}


def _scores(problem: Problem, measured: Iterator[tuple[int, float]]) -> Iterator[Score]:
    """Of methods that believe what they measured."""
    rows: list[int] = []
    seconds: list[float] = []
    for row, found in measured:
        rows.append(row)
        seconds.append(found)
        if len(rows) in CHECKPOINTS:
            known = np.array(rows)
            believed = known[front_rows(np.c_[seconds, problem.exact[rows]])]
            yield _score(len(rows), problem, known, np.array(seconds), believed)


def _score(
    number: int,
    problem: Problem,
    rows: Rows,
    believed_s: Floats,
    believed_front: Rows,
    unmeasured: float | None = None,
) -> Score:
    return Score(
        number,
        problem.share(believed_front),
        problem.share(rows),
        problem.excess(rows, believed_s),
        problem.excess(rows, problem.true_s[rows]),
        unmeasured,
    )


class NearestNew(BaseSampler):
    """Lets another sampler draw and takes the nearest row that is new; `rows` are those taken so far."""

    def __init__(self, inner: BaseSampler, problem: Problem) -> None:
        self._inner = inner
        low, high = problem.parameters.min(axis=0), problem.parameters.max(axis=0)
        self.distributions: dict[str, BaseDistribution] = {
            f"p{i}": IntDistribution(int(a), int(b))
            for i, (a, b) in enumerate(zip(low, high, strict=True))
            if a < b
        }
        self._columns = [int(name[1:]) for name in self.distributions]
        self._parameters = problem.parameters
        self._span = (high - low)[self._columns].astype(np.float32)
        self._points = problem.parameters[:, self._columns].astype(np.float32) / self._span
        self._new = np.ones(len(self._points), dtype=bool)
        self.rows: list[int] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = self._inner.sample_relative(study, trial, search_space)
        if set(drawn) != set(search_space):  # start-up: drawn at random
            drawn = {
                name: self._inner.sample_independent(study, trial, name, distribution)
                for name, distribution in search_space.items()
            }
        point = np.array([drawn[name] for name in self.distributions], dtype=np.float32) / self._span
        distances = ((self._points - point) ** 2).sum(axis=1)
        row = int(np.where(self._new, distances, np.inf).argmin())
        self._new[row] = False
        self.rows.append(row)
        found = self._parameters[row, self._columns].tolist()
        return dict(zip(self.distributions, found, strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(param_name)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)
