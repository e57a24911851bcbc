"""How every candidate of a contest is trained: the same data in the same order, judged after each eighth."""

from __future__ import annotations

from hwsearch.errors import HwsearchError
from hwsearch.training import Recipe, recipe_of, short_recipe

SECONDS_BETWEEN_CHECKPOINTS = 120.0  # Ctrl-C costs at most this
STAGES = 8
"""A whole run is eight times the shortest one that may end a candidate."""


def contest_recipe(
    tokens: int,
    *,
    learning_rate: float = 2e-3,
    tokens_per_step: int = 4096,
    sequence_length: int = 256,
    seed: int = 0,
) -> Recipe:
    """`tokens` in one phase, evaluated after every eighth of its steps.

    The steps are rounded to a multiple of eight. Raises HwsearchError for a budget of less than eight steps.
    """
    if tokens < STAGES * tokens_per_step:
        raise HwsearchError(
            f"--train-tokens: {tokens:,}; accepted: {STAGES * tokens_per_step:,} or more,"
            f" {STAGES} steps of {tokens_per_step:,}"
        )
    steps = STAGES * round(tokens / (STAGES * tokens_per_step))
    recipe = short_recipe(
        steps=steps,
        tokens_per_step=tokens_per_step,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        seed=seed,
    ).model_dump()
    recipe["phases"][0]["keep_every"] = steps // STAGES
    recipe["save_every_seconds"] = SECONDS_BETWEEN_CHECKPOINTS
    return recipe_of(recipe)
