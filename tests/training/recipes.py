"""Recipes of seconds for tiny shapes."""

from __future__ import annotations

from typing import Any

from hwsearch.training import Recipe, recipe_of

PHASE: dict[str, Any] = {
    "sequence_length": 64,
    "tokens_per_step": 512,
    "tokens_per_row": 256,
    "learning_rate": 1e-3,
    "weight_decay": 1e-5,
    "keep_every": 5,
}


def two_phases(**changes: Any) -> Recipe:
    """12 steps with a batch warm-up, then 8 of longer sequences with a decay, in rows of 256 tokens."""
    phases = [
        {
            **PHASE,
            "name": "first",
            "tokens": 10 * 512 + 4 * 256,
            "batch_warmup": {"from_tokens_per_step": 256, "tokens": 4 * 256},
            "warmup_tokens": 2048,
            "global_rope_theta": 10_000.0,
        },
        {
            **PHASE,
            "name": "second",
            "tokens": 8 * 512,
            "sequence_length": 128,
            "decay_tokens": 8 * 512,
            "final_share": 0.001,
            "global_rope_theta": 160_000.0,
            "keep_every": 2,
        },
    ]
    return recipe_of({"seed": 3, "average": 2, "phases": phases, **changes})
