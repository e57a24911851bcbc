"""How a shape is trained: everything but the shape and the text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwsearch.errors import HwsearchError
from hwsearch.shape import EncoderShape
from hwsearch.training.sequences import SHORTEST_SEQUENCE


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One constant phase; masking and betas are ModernBERT's (arXiv 2412.13663, Table 3).

    Attributes:
        steps: optimizer steps.
        tokens_per_step: real tokens of one packed row, at most; a row is one step's batch.
        sequence_length: longer documents are cut into sequences of this many tokens, CLS and SEP included.
        learning_rate: at its peak.
        warmup_share: part of the steps over which the learning rate rises from 0.
        decay_share: part of the steps, at the end, over which it falls as 1 - sqrt; 0 keeps it constant.
        weight_decay: on matrices and the embedding only.
        max_gradient_norm: gradients are scaled down to this norm; None leaves them.
        mask_share: tokens to predict; of them 80 % become MASK, 10 % another token, 10 % stay.
        seed: decides initial weights, order, held-out text and masks.

    Raises HwsearchError for values outside what these descriptions allow.
    """

    steps: int = 300
    tokens_per_step: int = 4096
    sequence_length: int = 256
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    decay_share: float = 0.5
    weight_decay: float = 0.01
    max_gradient_norm: float | None = 1.0
    mask_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        self._at_least("steps", 1)
        self._at_least("sequence_length", SHORTEST_SEQUENCE)
        self._at_least("tokens_per_step", self.sequence_length)
        if not 0 <= self.seed < 2**32:
            raise HwsearchError(f"seed: {self.seed}; accepted: 0 to 2^32 - 1")
        self._within("learning_rate", 0, math.inf, above=True)
        self._within("weight_decay", 0, math.inf)
        self._within("mask_share", 0, 1, above=True)
        self._within("warmup_share", 0, 1)
        self._within("decay_share", 0, 1 - self.warmup_share)
        if self.max_gradient_norm is not None:
            self._within("max_gradient_norm", 0, math.inf, above=True)

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise HwsearchError(f"{name}: {getattr(self, name)}; accepted: {least} or more")

    def _within(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        if not low <= value <= high or (above and value == low) or math.isinf(value):
            bound = "over" if above else "from"
            limit = "" if math.isinf(high) else f" up to {high:g}"
            raise HwsearchError(f"{name}: {value:g}; accepted: {bound} {low:g}{limit}")

    def check_fits(self, shape: EncoderShape) -> None:
        if self.sequence_length > shape.max_position_embeddings:
            raise HwsearchError(
                f"sequence_length: {self.sequence_length} is more than {shape} has positions,"
                f" {shape.max_position_embeddings}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ... `steps` - 1."""
        warmup, decay = round(self.steps * self.warmup_share), round(self.steps * self.decay_share)
        rise = (step + 1) / warmup if step < warmup else 1.0
        into_decay = step - (self.steps - decay)
        fall = 1 - math.sqrt(into_decay / decay) if into_decay > 0 else 1.0
        return self.learning_rate * rise * fall
