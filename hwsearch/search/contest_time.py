"""How long a contest takes, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hwsearch.model import MaskedLanguageModel
from hwsearch.shape import EncoderShape
from hwsearch.training import Recipe
from hwsearch.training.plan import Plan, device_profile, make_plan
from hwsearch.training.run import seconds_per_flop
from hwsearch.training.schedule import Schedule
from hwsearch.training.token_cache import TokenCache


def whole_runs(shapes: Sequence[EncoderShape], recipe: Recipe, text: TokenCache) -> list[Plan]:
    """A whole run of each shape on this machine, alone.

    On a GPU by the cost model; on a CPU by its FLOPs and the time of a row of the first shape, so deep and
    narrow ones take longer than said.
    """
    schedules = tuple(Schedule.of(phase) for phase in recipe.scaled_phases())
    on_gpu = torch.cuda.is_available()
    per_flop = 0.0 if on_gpu else _seconds_per_flop(shapes[0], text, schedules[0])
    return [
        make_plan(
            shape,
            schedules,
            device_profile(on_gpu),
            processes=1,
            runtime="eager",
            recompute=False,
            seconds_per_flop=lambda: per_flop,
        )
        for shape in shapes
    ]


def _seconds_per_flop(shape: EncoderShape, text: TokenCache, schedule: Schedule) -> float:
    model = MaskedLanguageModel(shape)
    return seconds_per_flop(model, model, text, schedule)
