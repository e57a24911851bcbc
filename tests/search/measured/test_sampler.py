"""MeasuredSampler reads its study's trials and proposes what is worth measuring next, each shape once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import Trial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.search.candidates import Candidates, price, with_latency
from hwsearch.search.measured.sampler import FAILURE, MEASURED_ERROR, MEASURED_S, MeasuredSampler
from hwsearch.search.objectives import objectives
from hwsearch.search.parameters import Key, candidate_values, distributions, key_of, keys
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import SearchSpace, load_space, valid_shapes

BIAS = {"t4": 1.4, "l4": 0.8}


class Run:
    """A study whose t4 and l4 take BIAS times what is predicted."""

    def __init__(self, path: Path, gpus: tuple[str, ...] = ("t4", "l4"), few: int | None = None) -> None:
        self.space: SearchSpace = load_space(str(path))
        shapes = valid_shapes(self.space)[0]
        self.reference = price(self.space, ShapeTable.of([self.space.reference]))
        self.candidates: Candidates = price(self.space, shapes.take(np.arange(len(shapes))[:few]))
        self.gpus = gpus
        self.values = candidate_values(self.space.file.shape)
        self.rows = {key: row for row, key in enumerate(keys(self.candidates.shapes))}
        found = objectives(self.space, self.candidates, self.reference)
        self.study = optuna.create_study(
            sampler=self.sampler(), directions=[objective.direction for objective in found]
        )

    def sampler(self) -> MeasuredSampler:
        return MeasuredSampler(self.space, self.candidates, self.reference, self.gpus)

    def ask(self) -> tuple[Trial, Key]:
        trial = self.study.ask(distributions(self.values))
        return trial, key_of(trial.params, self.values)

    def tell(self, trial: Trial, key: Key) -> None:
        latency = self.candidates.latency[:, self.rows[key]]
        seconds = {
            gpu.name: float(predicted) * BIAS[gpu.name]
            for gpu, predicted in zip(self.space.gpus, latency, strict=True)
            if gpu.name in self.gpus
        }
        trial.set_user_attr(MEASURED_S, seconds)
        trial.set_user_attr(MEASURED_ERROR, dict.fromkeys(seconds, 0.002))
        self.study.tell(trial, [1.0] * len(self.study.directions))

    def measure(self, count: int) -> list[Key]:
        found = []
        for _ in range(count):
            trial, key = self.ask()
            self.tell(trial, key)
            found.append(key)
        return found


def test_valid_shapes_are_proposed_each_once_and_alike_after_a_restart(small_space: Path) -> None:
    run = Run(small_space)
    asked = run.measure(12)
    assert len(set(asked)) == 12
    assert set(asked) <= set(run.rows)
    again = run.sampler().propose(run.study)
    assert again == run.ask()[1], "a sampler that starts anew reads it all from the study"
    assert again not in asked


def test_a_trial_under_way_is_not_proposed_and_a_failed_one_by_its_reason(small_space: Path) -> None:
    run = Run(small_space)
    run.measure(3)
    killed, first = run.ask()
    assert run.sampler().propose(run.study) != first, "it is under way"
    run.study.tell(killed, state=TrialState.FAIL)
    assert run.sampler().propose(run.study) == first, "the process failed, not the shape"
    trial, again = run.ask()
    assert again == first
    trial.set_user_attr(FAILURE, "out of memory")
    run.study.tell(trial, state=TrialState.FAIL)
    assert first not in run.measure(8)


def test_a_sampler_may_be_asked_about_another_study(small_space: Path) -> None:
    """What it remembers of a study's finished trials is that study's."""
    run, other = Run(small_space), Run(small_space)
    run.measure(3)
    last = dict(zip(run.values, list(run.rows)[-1], strict=True))
    other.study.enqueue_trial({name: value for name, value in last.items() if len(run.values[name]) > 1})
    other.measure(2)
    sampler = run.sampler()
    for study in (run.study, other.study, run.study):
        assert sampler.propose(study) == run.sampler().propose(study)


def test_the_basket_follows_times_that_are_replaced(small_space: Path) -> None:
    run = Run(small_space)
    slower = with_latency(run.space, run.candidates, run.candidates.latency * np.array([[1.4], [1.0]]))
    assert [gpu.name for gpu in run.space.gpus] == ["t4", "l4"]
    assert slower.basket_latency / run.candidates.basket_latency == pytest.approx(1.4 ** (2 / 3))


def test_shapes_that_break_a_measured_limit_are_passed_over(small_space: Path) -> None:
    run = Run(small_space)
    slowest_ms = float(np.median(1e3 * run.candidates.slowest[0]))
    small_space.write_text(small_space.read_text() + f"limits:\n  latency_ms: {{t4: {slowest_ms}}}\n")
    run = Run(small_space)
    asked = [run.rows[key] for key in run.measure(15)]
    # On the predictions half keep to it; at 1.4 times as long fewer do, which a few trials teach.
    assert (1.4e3 * run.candidates.slowest[0, asked[5:]] <= slowest_ms).all()


def test_a_space_that_promises_nothing_more_says_so(small_space: Path) -> None:
    run = Run(small_space, few=6)
    asked = []
    while (key := run.sampler().propose(run.study)) is not None:
        asked += run.measure(1)
        assert asked[-1] == key
    assert 1 <= len(set(asked)) == len(asked) <= 6
    with pytest.raises(HwsearchError, match="promises"):
        run.ask()


def test_a_study_that_was_told_of_other_shapes_is_read_without_them(small_space: Path) -> None:
    run = Run(small_space, few=40)
    foreign = next(key for key in keys(valid_shapes(run.space)[0]) if key not in run.rows)
    params = {
        name: value for name, value in zip(run.values, foreign, strict=True) if len(run.values[name]) > 1
    }
    run.study.enqueue_trial(params)
    trial, key = run.ask()
    assert key == foreign
    run.study.tell(trial, [1.0] * len(run.study.directions))
    assert run.sampler().propose(run.study) in run.rows
