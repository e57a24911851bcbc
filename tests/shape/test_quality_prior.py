"""The quality prior against the two points it is drawn through."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.shape import EncoderShape
from hwsearch.shape.quality_prior import aspect_loss_penalty, effective_parameters
from hwsearch.shape.table import ShapeTable


def of(depth: int, width: int) -> ShapeTable:
    return ShapeTable.of(
        [
            EncoderShape(
                num_hidden_layers=depth,
                hidden_size=width,
                num_attention_heads=width // 16,
                intermediate_size=4 * width,
            )
        ]
    )


def test_kaplans_two_models() -> None:
    """6 layers of 4288 within 3 % of 48 layers of 1600 (arXiv 2001.08361, Fig. 5)."""
    assert aspect_loss_penalty(of(48, 1600))[0] == 0
    assert aspect_loss_penalty(of(6, 4288))[0] == pytest.approx(0.03)
    # 3 % of loss is a factor of about 1.5 in parameters at an exponent of 0.076.
    shallow = of(6, 4288)
    body = 6 * (4 * 4288**2 + 3 * 4288 * 4 * 4288 + 2 * 4288)
    assert effective_parameters(shallow)[0] == pytest.approx(body / 1.475, rel=0.01)


def test_deeper_at_equal_size_is_worth_more_up_to_the_best_aspect() -> None:
    penalties = np.concatenate([aspect_loss_penalty(of(depth, 1024)) for depth in (4, 8, 16, 30)])
    assert (np.diff(penalties) < 0).all()
