"""Whoever can write to a study does not choose what is built, measured or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_engine import FakeEngine
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hwsearch.search.measured import measure_front
from hwsearch.search.parameters import candidate_values, key_of, keys
from hwsearch.search.run import run
from hwsearch.search.study import open_storage
from hwsearch.space.search_space import SearchSpace, load_space, valid_shapes

HOSTILE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a size outside the space": lambda params: {**params, "hidden_size": 1 << 20},
    "no multiple of its heads": lambda params: {**params, "hidden_size": 129},
    "a depth of zero": lambda params: {**params, "num_hidden_layers": 0},
    "text for a number": lambda params: {**params, "local_attention": "__import__('os')"},
    "nothing": lambda params: {},
    "too much": lambda params: {**params, "command": "rm"},
}


def edit(folder: Path, study: str, space: SearchSpace, state: TrialState) -> list[int]:
    """Add hostile trials to a run's study, as whoever may write to its journal can; their numbers."""
    opened = optuna.load_study(study_name=study, storage=open_storage(str(folder / "study.log")))
    shape = dict(zip(candidate_values(space.file.shape), keys(valid_shapes(space)[0])[0], strict=True))
    del shape["vocab_size"]
    added = []
    for change in HOSTILE.values():
        params = change(dict(shape))
        distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, 1 << 30) if isinstance(value, int) else CategoricalDistribution([value])
            for name, value in params.items()
        }
        added.append(len(opened.trials))
        values = [0.0, 1e9] if state == TrialState.COMPLETE else None
        opened.add_trial(create_trial(state=state, params=params, distributions=distributions, values=values))
    return added


@pytest.mark.parametrize("sampler", ["front", "tpe"])
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.RUNNING])
def test_a_predicted_run_answers_with_shapes_of_its_space(
    small_space: Path, tmp_path: Path, sampler: Any, state: TrialState
) -> None:
    space = load_space(str(small_space))
    run(space, out=tmp_path / "run", sampler=sampler, trials=3)
    edit(tmp_path / "run", "small", space, state)
    result = run(space, out=tmp_path / "run", sampler=sampler, trials=20)
    assert set(keys(result.candidates.shapes)) <= set(keys(valid_shapes(space)[0]))


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING])
def test_a_measured_run_measures_shapes_of_its_space(
    small_space: Path, tmp_path: Path, state: TrialState
) -> None:
    space = load_space(str(small_space))
    predicted = run(space, out=tmp_path / "run", trials=3)
    measure_front(predicted, FakeEngine(["t4", "l4"]), count=1)
    edit(tmp_path / "run", "small measured", space, state)
    engine = FakeEngine(["t4", "l4"])
    jobs: list[Any] = []
    submit = engine.submit
    engine.submit = lambda ticket, gpu, job: (jobs.append(job), submit(ticket, gpu, job))[1]  # type: ignore[method-assign,func-returns-value]
    result = measure_front(predicted, engine, count=9)
    valid = {shape.hash() for shape in map(valid_shapes(space)[0].shape, range(len(valid_shapes(space)[0])))}
    assert jobs and {job.shape.hash() for job in jobs} <= valid
    assert {shape.shape.hash() for shape in result.shapes} <= valid


def test_parameters_are_a_shape_of_the_space_or_nothing(small_space: Path) -> None:
    values = candidate_values(load_space(str(small_space)).file.shape)
    shape = keys(valid_shapes(load_space(str(small_space)))[0])[0]
    params = dict(zip(values, shape, strict=True))
    assert key_of(params, values) == shape
    for name, change in HOSTILE.items():
        if name != "too much":
            assert key_of(change(params), values) is None, name
