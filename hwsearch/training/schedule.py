"""What each step of a phase does, from its number alone: rows, learning rate, whether to keep it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from hwsearch.training.recipe import Phase


@dataclass(frozen=True)
class Stretch:
    """Steps of one size.

    Attributes:
        first_step: of the phase, counted from 0.
        first_token: tokens of the phase before it, rows counted as full.
        rows: packed rows a step.
    """

    first_step: int
    first_token: int
    rows: int


@dataclass(frozen=True)
class Schedule:
    """A phase, step by step; `steps` is their number."""

    phase: Phase
    stretches: tuple[Stretch, ...]
    steps: int

    @classmethod
    def of(cls, phase: Phase) -> Schedule:
        stretches, step, token = [], 0, 0
        for rows, until in batch_sizes(phase):
            if token >= phase.tokens:
                break
            steps = max(0, math.ceil((min(until, phase.tokens) - token) / (rows * phase.tokens_per_row)))
            if steps:
                stretches.append(Stretch(step, token, rows))
            step += steps
            token += steps * rows * phase.tokens_per_row
        return cls(phase, tuple(stretches), step)

    @property
    def tokens(self) -> int:
        """Of the whole phase, rows counted as full."""
        return self.tokens_before(self.steps)

    def passes(self, processes: int) -> int:
        """Rows that one process sees in the phase, or waits for."""
        ends = [each.first_step for each in self.stretches[1:]] + [self.steps]
        return sum(
            (end - each.first_step) * math.ceil(each.rows / processes)
            for each, end in zip(self.stretches, ends, strict=True)
        )

    def _stretch_of(self, step: int) -> Stretch:
        return self.stretches[bisect_right(self.stretches, step, key=lambda each: each.first_step) - 1]

    def rows_at(self, step: int) -> int:
        return self._stretch_of(step).rows

    def tokens_before(self, step: int) -> int:
        """Tokens of the phase when `step` begins, rows counted as full."""
        stretch = self._stretch_of(step)
        return stretch.first_token + (step - stretch.first_step) * stretch.rows * self.phase.tokens_per_row

    def learning_rate_at(self, step: int) -> float:
        return self.phase.learning_rate * learning_rate_share(self.phase, self.tokens_before(step))

    def keeps(self, steps_done: int) -> bool:
        """Whether the checkpoint after so many steps of the phase is evaluated and kept."""
        return steps_done % self.phase.keep_every == 0 or steps_done == self.steps


def learning_rate_share(phase: Phase, tokens: int) -> float:
    """Share of the peak for a step that begins after `tokens` of the phase: warm-up, stable, 1 - sqrt.

    With T tokens in all, C of decay and a final share a: a + (1 - a) (1 - sqrt((n - (T - C)) / C)), as
    FlexBERT's OneMinusSqrtScheduler. The warm-up begins at 1e-10 of the peak, as Composer's does.
    """
    if tokens < phase.warmup_tokens:
        return max(1e-10, tokens / phase.warmup_tokens)
    into_decay = tokens - (phase.tokens - phase.decay_tokens)
    if into_decay <= 0 or not phase.decay_tokens:
        return 1.0
    fall = 1 - math.sqrt(min(1.0, into_decay / phase.decay_tokens))
    return phase.final_share + (1 - phase.final_share) * fall


def batch_sizes(phase: Phase) -> Iterator[tuple[int, float]]:
    """Rows a step, and the tokens of the phase until which they hold; the last one holds for ever.

    The sizes are 1, 2 ... n - 1 units before the full n, and size b ends after
    W (1 + ... + b) / (1 + ... + (n - 1)) of the warm-up's W tokens: each takes as many steps.
    """
    full = max(1, round(phase.tokens_per_step / phase.tokens_per_row))
    if phase.batch_warmup:
        unit = max(1, round(phase.batch_warmup.from_tokens_per_step / phase.tokens_per_row))
        units = range(1, math.ceil(full / unit))
        for size in units:
            until = phase.batch_warmup.tokens * (size * (size + 1) / 2) / sum(units)
            yield size * unit, until
    yield full, math.inf
