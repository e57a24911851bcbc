from __future__ import annotations

import math

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.shape import parse_shape
from hwsearch.training import Recipe


def test_learning_rate_rises_stays_and_falls():
    recipe = Recipe(steps=100, learning_rate=1.0, warmup_share=0.1, decay_share=0.25)
    rates = [recipe.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert rates[10:76] == [1.0] * 66
    assert rates[79] == pytest.approx(1 - math.sqrt(4 / 25))
    assert rates[99] == pytest.approx(1 - math.sqrt(24 / 25))


def test_without_warmup_and_decay_it_is_constant():
    recipe = Recipe(steps=7, learning_rate=0.5, warmup_share=0, decay_share=0)
    assert {recipe.learning_rate_at(step) for step in range(7)} == {0.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("sequence_length", 2),
        ("tokens_per_step", 100),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("warmup_share", 1.5),
        ("decay_share", 0.95),
        ("weight_decay", -0.1),
        ("mask_share", 0.0),
        ("mask_share", 1.1),
        ("max_gradient_norm", 0.0),
        ("seed", -1),
    ],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(HwsearchError, match=f"^{name}: .*accepted"):
        Recipe(**{name: value})


def test_sequences_must_fit_the_positions():
    with pytest.raises(HwsearchError, match=r"sequence_length: 256 .* 128"):
        Recipe().check_fits(parse_shape("L2-h64-a1-i64-p128"))
