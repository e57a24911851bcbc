"""Samplers propose valid shapes, each once, whatever sampler explores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from hwsearch.errors import HwsearchError
from hwsearch.search.parameters import candidate_values, distributions, key_of, keys, params_of, shapes_of
from hwsearch.search.samplers import FrontSampler, ValidSampler
from hwsearch.space.search_space import SearchSpace, load_space, valid_shapes
from tests.conftest import SMALL_SPACE

optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_the_front_sampler_keeps_its_order_and_goes_on_where_it_stopped(small_space: Path) -> None:
    space = load_space(str(small_space))
    order = keys(valid_shapes(space)[0])[40:52]
    values = candidate_values(space.file.shape)
    storage = optuna.storages.InMemoryStorage()

    def ask_and_tell(count: int, fail: bool = False) -> list[tuple[int, ...]]:
        sampler = FrontSampler(order, values)
        study = optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)
        asked = []
        for _ in range(count):
            trial = study.ask(distributions(values))
            asked.append(key_of(trial.params, values))
            if fail:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, 1.0)
        assert sampler.remaining(study) == [key for key in order if key not in done(study)]
        return asked

    def done(study: optuna.Study) -> list[tuple[int, ...]]:
        complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        return [key_of(trial.params, values) for trial in complete]

    assert ask_and_tell(5) == order[:5]
    assert ask_and_tell(1, fail=True) == order[5:6]
    assert ask_and_tell(7) == order[5:], "a failed shape is proposed again"
    with pytest.raises(HwsearchError, match="whole front"):
        ask_and_tell(1)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: RandomSampler(seed=1),
        lambda: TPESampler(seed=1, multivariate=True, n_startup_trials=5),
        lambda: NSGAIISampler(seed=1, population_size=8),
    ],
)
def test_explored_shapes_are_valid_and_new(small_space: Path, inner: Callable[[], BaseSampler]) -> None:
    space = load_space(str(small_space))
    valid = set(keys(valid_shapes(space)[0]))
    values = candidate_values(space.file.shape)
    proposed = explore(space, inner(), 60)
    assert len(set(proposed)) == 60
    assert set(proposed) <= valid
    assert keys(shapes_of(proposed, space.file.shape)) == proposed
    assert set(distributions(values)) == {
        "num_hidden_layers",
        "hidden_size",
        "head_size",
        "intermediate_size",
        "global_attn_every_n_layers",
        "local_attention",
    }


def explore(space: SearchSpace, inner: BaseSampler, count: int) -> list[tuple[int, ...]]:
    values = candidate_values(space.file.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            sampler=ValidSampler(inner, space, seed=3), directions=["minimize", "maximize"]
        )
        found = []
        for _ in range(count):
            trial = study.ask(distributions(values))
            key = key_of(trial.params, values)
            found.append(key)
            study.tell(trial, [key[0] * key[1], key[3]])
    return found


def test_the_same_seed_explores_alike(small_space: Path) -> None:
    space = load_space(str(small_space))
    first, second = (explore(space, TPESampler(seed=7, multivariate=True), 25) for _ in range(2))
    assert first == second


def test_a_space_that_is_used_up_says_so(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        SMALL_SPACE.replace("{min: 2, max: 9}", "[4]")
        .replace("{min: 128, max: 320, step: 64}", "[192]")
        .replace("{min: 128, max: 1024, step: 64}", "[512, 576]")
        .replace("[1, 3]", "3")
        .replace("[64, 128]", "128")
    )
    space = load_space(str(path))
    with pytest.raises(HwsearchError, match="both valid and new"):
        explore(space, RandomSampler(seed=0), 3)


def test_every_shape_of_a_sparse_space_is_proposed(small_space: Path) -> None:
    """What random draws found must not be lost with the pool they came from."""
    small_space.write_text(SMALL_SPACE.replace("{min: 1M, max: 4M}", "{min: 1M, max: 1.1M}"))
    space = load_space(str(small_space))
    valid = keys(valid_shapes(space)[0])
    values = candidate_values(space.file.shape)
    varying = distributions(values)
    inner = TPESampler(seed=0, multivariate=True, constant_liar=False)
    sampler = ValidSampler(inner, space, seed=0)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "maximize"])
    while (key := sampler.propose(study)) is not None:
        study.add_trial(
            optuna.trial.create_trial(
                params=params_of(key, varying), distributions=varying, values=[float(key[0]), 1.0]
            )
        )
    assert sorted(key_of(trial.params, values) for trial in study.trials) == sorted(valid)
