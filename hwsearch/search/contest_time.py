"""How long a contest takes, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hwsearch.model import MaskedLanguageModel
from hwsearch.search.contest_score import Entrant
from hwsearch.shape import EncoderShape
from hwsearch.training import Recipe
from hwsearch.training.plan import device_profile, duration, make_plan
from hwsearch.training.run import seconds_per_flop
from hwsearch.training.schedule import Schedule
from hwsearch.training.token_cache import TokenCache


def expected_time(
    field: Sequence[Entrant], left: Sequence[Entrant], seeded_twice: int, recipe: Recipe, text: TokenCache
) -> str:
    """A line about the runs that are left, on this machine.

    Predicted on a GPU; on a CPU by FLOPs and the time of a row of the reference, so deep and narrow shapes
    take longer than said.

    Args:
        field: all entrants, the reference first.
        seeded_twice: entrants besides the reference that get a second seed; the dearest are counted.
    """
    schedules = tuple(Schedule.of(phase) for phase in recipe.scaled_phases())
    on_gpu = torch.cuda.is_available()
    gpu = device_profile(on_gpu)
    per_flop = 0.0 if on_gpu else _seconds_per_flop(field[0].shape, text, schedules[0])
    seconds, source = {}, ""
    for entrant in field:
        plan = make_plan(
            entrant.shape,
            schedules,
            gpu,
            processes=1,
            runtime="eager",
            recompute=False,
            seconds_per_flop=lambda: per_flop,
        )
        seconds[entrant.shape], source = plan.seconds, plan.source
    known = {shape: each for shape, each in seconds.items() if each is not None}
    tokens = f"to train: {len(left)} shapes, {recipe.phases[0].tokens:,} tokens each"
    if len(known) < len(seconds):
        return f"{tokens}; how long that takes is not known: this GPU has no profile"
    again = [known[field[0].shape], *sorted(known[entrant.shape] for entrant in field[1:])[-seeded_twice:]]
    total = sum(known[entrant.shape] for entrant in left) + sum(again)
    return f"{tokens}, and {len(again)} with a second seed: at most about {duration(total)} ({source})"


def _seconds_per_flop(shape: EncoderShape, text: TokenCache, schedule: Schedule) -> float:
    model = MaskedLanguageModel(shape)
    return seconds_per_flop(model, model, text, schedule)
