"""Optuna samplers that propose only shapes the space holds, none that is complete or running."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.search.parameters import NAMES, Key, candidate_values, distributions, key_of, keys, shapes_of
from hwsearch.space.grid import intermediate_sizes, random_shapes
from hwsearch.space.search_space import SearchSpace, describe_removals, filter_shapes

RANDOM_BATCH = 4096
SIBLINGS = 20_000
RANDOM_BATCHES = 50


class ProposedShapes:
    """The shapes a study has proposed so far; failed trials may be proposed again.

    Trials are append-only, so each is looked at until it has left the state RUNNING.
    """

    def __init__(self, values: Mapping[str, Sequence[int]]) -> None:
        self._values = values
        self._settled: set[Key] = set()
        self._first_open = 0

    def of(self, study: Study, besides: int | None = None) -> set[Key]:
        """Keys of all complete and running trials, without trial number `besides`."""
        trials = study.get_trials(deepcopy=False)
        while self._first_open < len(trials) and trials[self._first_open].state.is_finished():
            trial = trials[self._first_open]
            if trial.state == TrialState.COMPLETE:
                self._settled.add(key_of(trial.params, self._values))
            self._first_open += 1
        still_open = {
            key_of(trial.params, self._values)
            for trial in trials[self._first_open :]
            if trial.state != TrialState.FAIL and trial.number != besides
        }
        return self._settled | still_open if still_open else self._settled


class _WholeShapeSampler(BaseSampler):
    """Draws all parameters of a shape at once; subclasses say which."""

    def __init__(self, values: Mapping[str, Sequence[int]]) -> None:
        self._values = values
        self._distributions = distributions(values)
        self._proposed = ProposedShapes(values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise HwsearchError(f"{param_name} is not a parameter of this space")


class FrontSampler(_WholeShapeSampler):
    """Proposes the shapes of a known front in their order, skipping those already in the study.

    `remaining` tells how many are left; asking for more raises HwsearchError.
    """

    def __init__(self, order: Sequence[Key], values: Mapping[str, Sequence[int]]) -> None:
        super().__init__(values)
        self._order = order

    def remaining(self, study: Study) -> int:
        proposed = self._proposed.of(study)
        return sum(key not in proposed for key in self._order)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        proposed = self._proposed.of(study, besides=trial.number)
        for key in self._order:
            if key not in proposed:
                return _varying(key, search_space)
        raise HwsearchError("the whole front has been proposed already")


class ValidSampler(_WholeShapeSampler):
    """Lets another sampler explore, but only among valid shapes that the study does not hold yet.

    A draw that misses the parameter budget or repeats a shape moves to the nearest depth and feed-forward
    size of its width that are valid and new; where there are none, a random valid shape is taken. So known
    constraints never reach the storage, and nothing is proposed twice.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace, seed: int) -> None:
        super().__init__(candidate_values(space.file.shape))
        self._inner = inner
        self._space = space
        self._generator = np.random.default_rng(seed)
        self._pool: list[Key] = []

    def require_valid_shapes(self) -> None:
        """Raise HwsearchError, with what each constraint removed, where random draws find no valid shape."""
        key = self._random_valid(set())
        self._pool.append(key)

    def has_new_shape(self, study: Study) -> bool:
        """Whether random draws still find a valid shape that the study does not hold."""
        try:
            key = self._random_valid(self._proposed.of(study))
        except HwsearchError:
            return False
        self._pool.append(key)  # after the draw, which may have begun a new pool
        return True

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        proposed = self._proposed.of(study, besides=trial.number)
        params = self._inner.sample_relative(study, trial, search_space)
        # Fewer parameters come back while the inner sampler is in its random start-up phase.
        if set(params) == set(search_space):
            key = self._nearest_valid(key_of(params, self._values), proposed)
            if key is not None:
                return _varying(key, search_space)
        return _varying(self._random_valid(proposed), search_space)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    def _nearest_valid(self, key: Key, proposed: set[Key]) -> Key | None:
        section = self._space.file.shape
        depth, hidden, head, intermediate, every, window, vocab = key
        if hidden % head:
            return None
        if every == 1:  # a window says nothing where all layers are global
            window = section.local_attention[0]
        depths, sizes = section.num_hidden_layers, intermediate_sizes(section, hidden)
        # Of very long lists only the part around the drawn size is looked at.
        reach = max(1, SIBLINGS // len(depths))
        middle = bisect_left(sizes, intermediate)
        sizes = sizes[max(0, middle - reach) : middle + reach]
        siblings = [(d, hidden, head, size, every, window, vocab) for d in depths for size in sizes]
        if not siblings:
            return None
        valid, _ = filter_shapes(shapes_of(siblings, section), self._space.constraints)
        fresh = [sibling for sibling in keys(valid) if sibling not in proposed]

        def distance(sibling: Key) -> float:
            return abs(sibling[0] - depth) / max(depths) + abs(sibling[3] - intermediate) / max(sizes)

        return min(fresh, key=distance, default=None)

    def _random_valid(self, proposed: set[Key]) -> Key:
        for _ in range(RANDOM_BATCHES):
            while self._pool:
                if (key := self._pool.pop()) not in proposed:
                    return key
            drawn = random_shapes(self._space.file.shape, self._generator, RANDOM_BATCH)
            valid, removals = filter_shapes(drawn, self._space.constraints)
            self._pool = list(dict.fromkeys(keys(valid)))
        raise HwsearchError(
            f"{self._space.name}: none of {RANDOM_BATCH * RANDOM_BATCHES:,} random shapes is both valid and"
            f" new; the last {RANDOM_BATCH:,}:\n{describe_removals(self._space, removals)}"
        )


def _varying(key: Key, search_space: Mapping[str, BaseDistribution]) -> dict[str, int]:
    return {name: value for name, value in zip(NAMES, key, strict=True) if name in search_space}
