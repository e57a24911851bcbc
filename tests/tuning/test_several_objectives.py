"""Time and energy at once: a better front than by chance, and trials of which only the time is known."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import moocore
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hwsearch.errors import HwsearchError
from hwsearch.tuning.sampler import FAILURE, MEASURED, KernelSampler
from hwsearch.tuning.tuning_space import TuningSpace
from hwsearch.tuning.weights import scalar, weights_of

BOTH = ["minimize", "minimize"]
SPACE = TuningSpace.of(
    ("rows", "columns", "warps", "stages"),
    list(itertools.product((16, 32, 64, 128, 256), (16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 3, 4))),
)


def measured(params: dict[str, int]) -> list[float]:
    """Seconds and joules: more warps and stages cost power, and time has its best elsewhere than energy."""
    rows, columns, warps, stages = (math.log2(params[name]) for name in SPACE.names)
    seconds = math.exp(0.3 * (rows - 7) ** 2 + 0.2 * (columns - 6) ** 2 + 0.3 * (warps - 3) ** 2)
    watts = math.exp(0.3 * rows + 0.5 * warps + 0.2 * stages)
    return [seconds, seconds * watts]


def study(seed: int, **options: object) -> optuna.Study:
    return optuna.create_study(directions=BOTH, sampler=KernelSampler(SPACE, seed, objectives=2), **options)


def tune(study: optuna.Study, count: int) -> list[dict[str, int]]:
    asked = []
    for _ in range(count):
        trial = study.ask(dict(SPACE.distributions))
        asked.append(trial.params)
        study.tell(trial, measured(trial.params))
    return asked


EVERYTHING = np.array([measured(SPACE.configuration(row)) for row in range(len(SPACE))])


def hypervolume(points: np.ndarray) -> float:
    """Of logarithms, as a share of what the true front dominates."""
    reference = np.log(EVERYTHING).max(axis=0)
    volumes = [float(moocore.hypervolume(np.log(x), ref=reference)) for x in (points, EVERYTHING)]
    return volumes[0] / volumes[1]


def test_the_front_is_far_ahead_of_random_search() -> None:
    ours, chance = [], []
    for seed in range(5):
        ours.append(hypervolume(np.array([measured(params) for params in tune(study(seed), 20)])))
        rows = np.random.default_rng(seed).choice(len(SPACE), 20, replace=False)
        chance.append(hypervolume(EVERYTHING[rows]))
    # Over ten seeds 0.5 % of the volume is missing, against 10 % by chance.
    assert 1 - np.mean(ours) < (1 - np.mean(chance)) / 4


def test_both_ends_of_the_front_are_reached() -> None:
    found = np.array([measured(params) for params in tune(study(0), 60)])
    assert (found.min(axis=0) <= 1.05 * EVERYTHING.min(axis=0)).all()


def test_a_loaded_study_goes_on_as_the_unbroken_one(tmp_path: Path) -> None:
    unbroken = tune(study(3), 24)
    asked: list[dict[str, int]] = []
    for part in (1, 9, 14):
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
        asked += tune(study(3, storage=storage, study_name="both", load_if_exists=True), part)
    assert asked == unbroken and len({tuple(params.values()) for params in asked}) == 24


def test_trials_that_end_in_every_way_are_taken() -> None:
    searched = study(1)
    for number in range(30):
        trial = searched.ask(dict(SPACE.distributions))
        seconds, joules = measured(trial.params)
        if number % 4 == 0:
            trial.set_user_attr(FAILURE, "does not compile")
            searched.tell(trial, state=TrialState.FAIL)
        elif number % 4 == 1:
            trial.set_user_attr(MEASURED, [seconds, None])
            searched.tell(trial, state=TrialState.PRUNED)
        elif number % 4 == 2:
            searched.tell(trial, state=TrialState.PRUNED)
        else:
            searched.tell(trial, [seconds, joules])
    assert len({tuple(trial.params.values()) for trial in searched.trials}) == 30


def test_a_study_of_other_objectives_is_refused() -> None:
    one = optuna.create_study(sampler=KernelSampler(SPACE, 0, objectives=2))
    with pytest.raises(HwsearchError, match="has 2, to be minimised"):
        one.ask(dict(SPACE.distributions))


positive = st.floats(1e-9, 1e9)


@given(st.lists(st.tuples(positive, positive), min_size=1), st.tuples(positive, positive))
def test_what_is_best_by_any_weights_is_on_the_front(
    points: list[tuple[float, float]], reference: tuple[float, float]
) -> None:
    for weights in weights_of(2):
        scores = [scalar(point, reference, weights) for point in points]
        best = min(score for score in scores if score is not None)
        chosen = [point for point, score in zip(points, scores, strict=True) if score == best]
        # Beyond rounding none is better in both.
        assert any(not any(a < x * (1 - 1e-9) and b < y * (1 - 1e-9) for a, b in points) for x, y in chosen)


@given(positive)
def test_one_objective_is_its_value_bit_for_bit(value: float) -> None:
    assert weights_of(1) == ((1.0,),)
    assert scalar([value], [], (1.0,)) == value
