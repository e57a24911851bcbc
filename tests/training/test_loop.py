"""Gradients of a step, taken apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwsearch.model import MaskedLanguageModel
from hwsearch.shape import parse_shape
from hwsearch.training.batches import DataState, Step
from hwsearch.training.loop import IDLE_ROW, accumulate
from hwsearch.training.masking import MaskedRow
from hwsearch.training.packing import Row
from hwsearch.training.processes import Processes
from tests.training.recipes import two_phases

PHASE = two_phases().phases[0]


def row(seed: int, lengths: list[int], predictions: int) -> MaskedRow:
    generator = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    positions = np.sort(generator.choice(offsets[-1], predictions, replace=False))
    tokens = generator.integers(0, 512, offsets[-1])
    return MaskedRow(Row(tokens, offsets), positions, generator.integers(0, 512, predictions))


def joined(first: MaskedRow, second: MaskedRow) -> MaskedRow:
    shift = len(first.row.tokens)
    return MaskedRow(
        Row(
            np.concatenate([first.row.tokens, second.row.tokens]),
            np.concatenate([first.row.cu_seqlens, second.row.cu_seqlens[1:] + shift]).astype(np.int32),
        ),
        np.concatenate([first.positions, second.positions + shift]),
        np.concatenate([first.targets, second.targets]),
    )


def gradients(rows: list[MaskedRow], passes: int) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = MaskedLanguageModel(parse_shape("L2-h32-a2-i32-v512-w16-p64"))
    processes = Processes(0, 1, torch.device("cpu"))
    predictions = sum(len(hidden.targets) for hidden in rows)
    total = accumulate(model, processes, Step(rows, 0, DataState()), PHASE, passes, predictions)
    return float(total), [weight.grad for weight in model.parameters()]


def test_two_rows_are_one_row_of_all_their_sequences():
    """The mean is over hidden tokens, of which the rows have 3 and 20, not over rows."""
    first, second = row(1, [20, 9], 3), row(2, [40], 20)
    total, apart = gradients([first, second], 2)
    expected_total, together = gradients([joined(first, second)], 1)
    assert total == pytest.approx(expected_total, rel=1e-6)
    for found, expected in zip(apart, together, strict=True):
        assert (found - expected).abs().max() < 1e-6


def test_waiting_for_others_adds_nothing():
    rows = [row(1, [20, 9], 3)]
    assert len(IDLE_ROW.targets) == 1
    total, waited = gradients(rows, 2)
    expected, alone = gradients(rows, 1)
    assert total == expected
    assert all(torch.equal(found, expected) for found, expected in zip(waited, alone, strict=True))
