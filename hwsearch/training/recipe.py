"""How a shape is trained, as data: everything but the shape and the text. No torch here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from hwsearch.errors import HwsearchError
from hwsearch.files import named_yaml, read_yaml
from hwsearch.shape import EncoderShape
from hwsearch.space.values import Count, parse_count
from hwsearch.training.sequences import SHORTEST_SEQUENCE
from hwsearch.validation import Section, validate

MOST = 10**7  # steps, and tokens a step, of a short recipe

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
CountOrNone = Annotated[int, BeforeValidator(lambda found: 0 if found == 0 else parse_count(found))]


class BatchWarmup(Section):
    """The first steps are smaller: `from_tokens_per_step`, twice, three times that ... up to the phase's.

    Every size gets the same number of steps, and all of them together `tokens`, as FlexBERT's
    BatchSizeWarmupScheduler has it.
    """

    from_tokens_per_step: Count
    tokens: Count


class Phase(Section):
    """A stretch of training with the same sequences, batch and schedule.

    Attributes:
        tokens: to train on. A row counts as full here, so that every step is known before the first;
            packing leaves less than one percent of it empty.
        sequence_length: longer documents are cut; CLS and SEP included.
        tokens_per_step: of one optimizer step, in packed rows, at least one.
        tokens_per_row: one packed row, which goes through the model at once (a micro-batch).
        learning_rate: at its peak.
        warmup_tokens: over which the learning rate rises in a straight line from 0.
        decay_tokens: at the phase's end, over which it falls as 1 - sqrt to `final_share` of its peak.
        weight_decay: on matrices and the embedding, a share per step at the peak: not multiplied by the
            learning rate, only by its share of the peak ("fully decoupled").
        global_rope_theta: RoPE's base in global layers; None leaves the shape's.
        mask_share: tokens to predict; of them 80 % become MASK, 10 % another token, 10 % stay.
        keep_every: a checkpoint at every such step of the phase is evaluated and kept.
    """

    name: Annotated[str, Field(min_length=1, max_length=40)]
    tokens: Count
    sequence_length: Annotated[int, Field(ge=SHORTEST_SEQUENCE)]
    tokens_per_step: Count
    tokens_per_row: Count
    learning_rate: Positive
    batch_warmup: BatchWarmup | None = None
    warmup_tokens: CountOrNone = 0
    decay_tokens: CountOrNone = 0
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    global_rope_theta: Positive | None = None
    mask_share: Share = 0.3
    keep_every: Annotated[int, Field(ge=1)] = 1000

    @model_validator(mode="after")
    def _sizes_fit_each_other(self) -> Phase:
        for name in ("tokens_per_step", "tokens_per_row"):
            if getattr(self, name) < self.sequence_length:
                raise ValueError(
                    f"{name}: {getattr(self, name)} is less than a sequence, {self.sequence_length}"
                )
        if self.tokens_per_step < self.tokens_per_row:
            raise ValueError(
                f"tokens_per_step: {self.tokens_per_step} is less than a row, {self.tokens_per_row}"
            )
        if self.warmup_tokens + self.decay_tokens > self.tokens:
            raise ValueError(f"warmup_tokens and decay_tokens exceed the phase's tokens, {self.tokens}")
        warmup = self.batch_warmup
        if warmup and warmup.from_tokens_per_step >= self.tokens_per_step:
            raise ValueError(
                f"from_tokens_per_step: {warmup.from_tokens_per_step} is not below tokens_per_step,"
                f" {self.tokens_per_step}"
            )
        return self


class Recipe(Section):
    """Phases in their order, with one optimizer (StableAdamW) going through all of them.

    Attributes:
        scale: multiplies budgets and warm-ups; tokens per step go with its square root.
        seed: decides initial weights, order, held-out text and masks.
        betas, eps: StableAdamW's.
        save_every_seconds: a checkpoint to go on from; only the newest of these are kept.
        average: so many of the last phase's checkpoints, the best on held-out text, are averaged with
            the last one; 0 takes the last one as it is.
    """

    scale: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    eps: Positive = 1e-6
    save_every_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    average: Annotated[int, Field(ge=0, le=100)] = 0
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, data: Any) -> Any:
        """YAML and JSON know lists only."""
        if not isinstance(data, dict):
            return data
        return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}

    def scaled_phases(self) -> tuple[Phase, ...]:
        """The phases as they are run."""
        return tuple(scale_phase(phase, self.scale) for phase in self.phases)

    def check_fits(self, shape: EncoderShape) -> None:
        """Raises HwsearchError where a phase's sequences are longer than the shape's positions."""
        for phase in self.phases:
            if phase.sequence_length > shape.max_position_embeddings:
                raise HwsearchError(
                    f"{phase.name}: sequence_length: {phase.sequence_length} is more than {shape} has"
                    f" positions, {shape.max_position_embeddings}"
                )


def scale_phase(phase: Phase, scale: float) -> Phase:
    """Tokens and warm-ups times `scale`, tokens per step and steps between checkpoints times its root.

    A row never holds more than the first step asks for, so that small steps keep their number of rows,
    and never less than one sequence.
    """
    if scale == 1:
        return phase
    root = math.sqrt(scale)
    warmup = phase.batch_warmup
    first_step = (warmup.from_tokens_per_step if warmup else phase.tokens_per_step) * root
    tokens_per_row = max(phase.sequence_length, min(phase.tokens_per_row, round(first_step)))
    tokens_per_step = max(tokens_per_row, round(phase.tokens_per_step * root))
    if warmup:
        from_tokens = max(tokens_per_row, round(warmup.from_tokens_per_step * root))
        warmup = BatchWarmup(from_tokens_per_step=from_tokens, tokens=max(1, round(warmup.tokens * scale)))
    return phase.model_copy(
        update={
            "tokens": max(1, round(phase.tokens * scale)),
            "tokens_per_row": tokens_per_row,
            "tokens_per_step": tokens_per_step,
            "batch_warmup": warmup if warmup and warmup.from_tokens_per_step < tokens_per_step else None,
            "warmup_tokens": round(phase.warmup_tokens * scale),
            "decay_tokens": round(phase.decay_tokens * scale),
            "keep_every": max(1, round(phase.keep_every * root)),
        }
    )


def short_recipe(
    *,
    steps: int = 300,
    tokens_per_step: int = 4096,
    sequence_length: int = 256,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Recipe:
    """One phase for a first look at a shape: a tenth of it warm-up, the second half decay.

    Raises HwsearchError for values that make no phase.
    """
    for name, value in (("steps", steps), ("tokens_per_step", tokens_per_step)):
        if not 1 <= value <= MOST:
            raise HwsearchError(f"{name}: {value}; accepted: 1 to {MOST:,}")
    tokens = steps * tokens_per_step
    phase = {
        "name": "training",
        "tokens": tokens,
        "sequence_length": sequence_length,
        "tokens_per_step": tokens_per_step,
        "tokens_per_row": tokens_per_step,
        "learning_rate": learning_rate,
        "warmup_tokens": tokens // 10,
        "decay_tokens": tokens // 2,
        "weight_decay": 1e-5,
    }
    return recipe_of({"seed": seed, "phases": [phase]})


def recipe_of(data: dict[str, Any]) -> Recipe:
    """A recipe from plain data, as `Recipe.model_dump` gives it. Raises HwsearchError."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":
            message = f"found {first['input']!r}; {message[0].lower()}{message[1:]}"
        of_field = first["loc"] and isinstance(first["loc"][-1], str)
        raise HwsearchError(f"{first['loc'][-1]}: {message}" if of_field else message) from error


def find_recipe(name: str) -> Path:
    """A recipe's path from a path, or from the name of a shipped recipe."""
    return named_yaml(name, "recipes", "recipe")


def read_recipe(path: Path) -> Recipe:
    """Read and validate one recipe; every mistake in it is listed with its line."""
    return validate(Recipe, read_yaml(path), "recipe")
