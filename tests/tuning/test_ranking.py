"""How well a model's order foretells a measured one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.kernels.tuned import Key, Row, Table
from hwsearch.tuning.ranking import compared, of_model, ranking

POSITIVE = st.floats(1e-6, 1.0)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=30))
def test_measuring_as_many_as_needed_finds_one_within_two_percent(pairs):
    modelled, measured = zip(*pairs, strict=True)
    found = ranking(modelled, measured)
    order = sorted(range(len(pairs)), key=lambda i: modelled[i])
    first = [measured[i] for i in order]
    assert min(first[: found.needed]) <= 1.02 * min(measured)
    assert found.needed == 1 or min(first[: found.needed - 1]) > 1.02 * min(measured)
    assert found.top_loss_percent == pytest.approx(100 * (first[0] / min(measured) - 1))


def test_the_same_order_costs_nothing_and_the_opposite_most():
    same = ranking([1, 2, 3], [10, 20, 30])
    assert (same.top_loss_percent, same.needed, same.agreement) == (0, 1, pytest.approx(1))
    opposite = ranking([3, 2, 1], [10, 20, 30])
    assert (opposite.top_loss_percent, opposite.needed) == (pytest.approx(200), 3)
    assert opposite.agreement == pytest.approx(-1)


@pytest.mark.parametrize("modelled, measured", [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_seconds_must_pair_up(modelled, measured):
    with pytest.raises(ValueError, match="shapes"):
        ranking(modelled, measured)


def test_tables_compare_what_both_rows_list():
    key = Key("bf16", 64, "global", 512)
    a, b, c = ({"rows": rows} for rows in (64, 128, 32))
    measured = Row(
        key, "measured", b, 1.0, None, ((a, 1.5), (c, 2.0)), "fixed:512x1", 12, 0.01, None,
        "3.9.0", None, None, "2026-01-01", "timed",
    )  # fmt: skip
    modelled = replace(measured, source="modelled", config=a, seconds=0.8, alternatives=((b, 0.9),))
    table = Table("attention_forward", "l4", ("NVIDIA L4",), (8, 9), 58, (measured, modelled))
    found = compared(table)[key]
    assert (found.configurations, found.needed, found.top_loss_percent) == (2, 2, pytest.approx(50))
    assert not compared(replace(table, rows=(modelled,)))
    # With the whole search: what the model does not list may be the fastest.
    ranked = of_model(modelled, [(a, 1.5), (b, 1.01), (c, 2.0), ({"rows": 16}, 1.0)])
    assert ranked is not None and (ranked.configurations, ranked.needed) == (2, 2)
    assert ranked.top_loss_percent == pytest.approx(50)
    ranked = of_model(modelled, [(a, 1.5), ({"rows": 16}, 1.0)])
    assert ranked is not None and ranked.needed is None
    assert of_model(modelled, [(c, 2.0)]) is None
    assert math.isnan(ranking([1.0], [2.0]).agreement)
