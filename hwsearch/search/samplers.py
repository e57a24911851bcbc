"""Optuna samplers that propose only shapes the space holds, none that is complete or running."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from hwsearch.errors import HwsearchError
from hwsearch.search.parameters import (
    Key,
    candidate_values,
    distributions,
    key_of,
    keys,
    params_of,
    shapes_of,
)
from hwsearch.search.storage.leases import is_settled
from hwsearch.space.grid import intermediate_sizes, random_shapes
from hwsearch.space.search_space import SearchSpace, describe_removals, filter_shapes

RANDOM_BATCH = 4096
SIBLINGS = 20_000
RANDOM_BATCHES = 50


class ProposedShapes:
    """The shapes that need no other trial of a study; those of lost trials may be proposed again.

    Trials are append-only, so each is looked at until it has left the state RUNNING.
    """

    def __init__(self, values: Mapping[str, Sequence[int]]) -> None:
        self._values = values
        self._settled: set[Key] = set()
        self._first_open = 0

    def of(self, study: Study, besides: int | None = None) -> set[Key]:
        """Their keys, without trial number `besides`."""
        trials = study.get_trials(deepcopy=False)
        while self._first_open < len(trials) and trials[self._first_open].state.is_finished():
            trial = trials[self._first_open]
            self._settled |= self._shape_of(trial)
            self._first_open += 1
        still_open = {
            key
            for trial in trials[self._first_open :]
            if trial.number != besides
            for key in self._shape_of(trial)
        }
        return self._settled | still_open if still_open else self._settled

    def _shape_of(self, trial: FrozenTrial) -> set[Key]:
        key = key_of(trial.params, self._values) if is_settled(trial) else None
        return set() if key is None else {key}


class WholeShapeSampler(BaseSampler):
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


class FrontSampler(WholeShapeSampler):
    """Proposes the shapes of a known front in their order, skipping those already in the study.

    Asking for more than `remaining` raises HwsearchError.
    """

    def __init__(self, order: Sequence[Key], values: Mapping[str, Sequence[int]]) -> None:
        super().__init__(values)
        self._order = order

    def remaining(self, study: Study, besides: int | None = None) -> list[Key]:
        """What the study lacks of the front, in order, as if trial number `besides` were not there."""
        proposed = self._proposed.of(study, besides)
        return [key for key in self._order if key not in proposed]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        left = self.remaining(study, besides=trial.number)
        if not left:
            raise HwsearchError("the whole front has been proposed already")
        return params_of(left[0], search_space)


class ValidSampler(WholeShapeSampler):
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

    def propose(self, study: Study) -> Key | None:
        """A shape that the study does not hold; None where random draws find none any more."""
        proposed = self._proposed.of(study)
        try:
            spare = self._random_valid(proposed)
        except HwsearchError:
            return None
        # Of a trial that is not in the study: a shape is chosen before one is begun.
        key = self._explored(study, create_trial(state=TrialState.RUNNING), proposed)
        if key is None:
            return spare
        self._pool.append(spare)
        return key

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises HwsearchError where random draws find no new shape any more."""
        proposed = self._proposed.of(study, besides=trial.number)
        key = self._explored(study, trial, proposed)
        return params_of(self._random_valid(proposed) if key is None else key, search_space)

    def _explored(self, study: Study, trial: FrozenTrial, proposed: set[Key]) -> Key | None:
        try:
            params = self._inner.sample_relative(study, trial, self._distributions)
        except (TypeError, ValueError):  # somebody has written what is no shape to the study
            return None
        # Fewer parameters come back while the inner sampler is in its random start-up phase.
        key = key_of(params, self._values)
        return None if key is None else self._nearest_valid(key, proposed)

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
