"""The steps of a run: which sequences each one reads, in which rows, with which tokens hidden.

Everything follows from the text, the seed and a `DataState`. Every process works out the whole step and
fills its own rows only, so one process or eight see the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count
from typing import Any

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.training.masking import MaskedRow, Masking, mask_row, sample_keys
from hwsearch.training.order import Order
from hwsearch.training.packing import best_fit, fill_row
from hwsearch.training.sequences import SHORTEST_SEQUENCE, Ids, Sequences
from hwsearch.training.token_cache import TokenCache

LOOK_AHEAD = 512  # sequences to choose from once the rows are nearly full
EVALUATION_MASK_SHARE = 0.15  # ModernBERT's authors always evaluate at 15 %
EVALUATION_SEED = 15


@dataclass(frozen=True)
class DataState:
    """Where a run stands in its data.

    Attributes:
        step: steps taken from the data so far.
        epoch, position: the next sequence to draw is this one of that epoch's order.
        held: sequences that were drawn and fitted into no row yet; they come first in the next step.
        data: what these numbers refer to: digest of the tokens, sequence length, seed.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    held: tuple[int, ...] = ()
    data: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"held": list(self.held)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> DataState:
        return DataState(**values | {"held": tuple(values["held"])})


@dataclass(frozen=True)
class Step:
    """What one optimizer step learns from.

    Attributes:
        rows: this process's rows, each a micro-batch.
        tokens: of all rows of all processes, CLS and SEP included.
        state: continues after this step.
    """

    rows: list[MaskedRow]
    tokens: int
    state: DataState


def batches(
    cache: TokenCache,
    *,
    sequence_length: int,
    tokens_per_row: int,
    rows_of_step: Callable[[int], int],
    mask_share: float,
    seed: int,
    state: DataState | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Step]:
    """Steps without end: every sequence once an epoch, each epoch in another order.

    Args:
        sequence_length: longer documents are cut, CLS and SEP included.
        tokens_per_row: at most; `sequence_length` or more.
        rows_of_step: rows of all processes together in step 0, 1, ..., 1 at least.
        seed: of order and masks. A phase with another sequence length wants another one.
        state: of the step before; None begins.
        rank, world_size: this process fills rows rank, rank + world_size, ...

    Raises HwsearchError for a state that belongs to other text, another sequence length or seed.
    """
    if not SHORTEST_SEQUENCE <= sequence_length <= tokens_per_row:
        raise HwsearchError(
            f"sequence_length: {sequence_length}; accepted: {SHORTEST_SEQUENCE} to the"
            f" {tokens_per_row} tokens of a row"
        )
    data = f"{cache.digest}-{sequence_length}-{seed}"
    state = state or DataState(data=data)
    if state.data != data:
        raise HwsearchError(
            f"this run began with the data {state.data}, now it is {data}"
            " (digest of the tokens, sequence length, seed); accepted: the same data, or a new run"
        )
    sequences = Sequences(cache.training, sequence_length)
    masking = _masking(cache, mask_share)
    order = Order(len(sequences), seed, state.epoch, state.position)
    held = np.array(state.held, np.int64)
    held_lengths = sequences.lengths(held % len(sequences))
    for step in count(state.step):
        rows = rows_of_step(step)
        drawn, lengths = _candidates(held, held_lengths, order, sequences, rows * tokens_per_row)
        taken = best_fit(lengths, rows, tokens_per_row)
        mine = [_row(cache, sequences, drawn[row], masking, seed) for row in taken[rank::world_size]]
        all_taken = np.fromiter(chain.from_iterable(taken), np.int64)
        left = np.ones(len(drawn), np.bool_)
        left[all_taken] = False
        held, held_lengths = drawn[left], lengths[left]
        state = DataState(step + 1, order.epoch, order.position, tuple(held.tolist()), data)
        yield Step(mine, int(lengths[all_taken].sum()), state)


def evaluation_rows(cache: TokenCache, *, sequence_length: int, tokens_per_row: int) -> list[MaskedRow]:
    """The held-out text in rows, 15 % hidden: the same tokens whatever the run's seed and rows."""
    sequences = Sequences(cache.held_out, sequence_length)
    masking = _masking(cache, EVALUATION_MASK_SHARE)
    numbers = np.arange(len(sequences))
    lengths = sequences.lengths(numbers)
    # No two rows would fit into one, so they are half full at least on average.
    most_rows = 2 * int(lengths.sum()) // tokens_per_row + 1
    rows = best_fit(lengths, most_rows, tokens_per_row)
    return [_row(cache, sequences, numbers[row], masking, EVALUATION_SEED) for row in rows if row]


def _candidates(drawn: Ids, lengths: Ids, order: Order, sequences: Sequences, tokens: int) -> tuple[Ids, Ids]:
    """What a step chooses from: the sequences so far and new ones, `tokens` tokens and LOOK_AHEAD more."""
    # Looking further than a small part of an epoch would mix epochs.
    look_ahead = min(LOOK_AHEAD, len(sequences) // 8)
    while True:
        total = np.cumsum(lengths)
        missing = int(np.searchsorted(total, tokens)) + 1 + look_ahead - len(drawn)
        if missing <= 0:
            return drawn, lengths
        # A short way to the same number where many are missing: no sequence is longer than sequence_length.
        at_least = (tokens - int(total[-1]) if len(total) else tokens) // sequences.sequence_length
        more = order.draw(max(missing, at_least))
        drawn = np.concatenate([drawn, more])
        lengths = np.concatenate([lengths, sequences.lengths(more % len(sequences))])


def _row(cache: TokenCache, sequences: Sequences, drawn: Ids, masking: Masking, seed: int) -> MaskedRow:
    epochs, numbers = np.divmod(drawn, len(sequences))
    row = fill_row(sequences, numbers, cls=cache.tokenizer.id("cls"), sep=cache.tokenizer.id("sep"))
    return mask_row(row, sample_keys(seed, epochs, numbers), masking)


def _masking(cache: TokenCache, share: float) -> Masking:
    return Masking(share, cache.tokenizer.id("mask"), cache.tokenizer.is_ordinary)
