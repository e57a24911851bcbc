"""Constraints mean what Python makes of them, for all configurations at once, and nothing is executed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.tuning.expression import holds

NAMES = ("a", "b", "c")

numbers = st.one_of(st.sampled_from(NAMES), st.integers(0, 9).map(str))
arithmetic = st.recursive(
    numbers,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", "/"]), inner).map(
        lambda parts: "({} {} {})".format(*parts)
    ),
    max_leaves=5,
)
comparisons = st.one_of(
    st.tuples(arithmetic, st.sampled_from("< <= > >= == !=".split()), arithmetic).map(" ".join),
    st.tuples(arithmetic, arithmetic, arithmetic).map(lambda parts: "{} <= {} < {}".format(*parts)),
    st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 9), min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]} in {parts[1]}"
    ),
)
constraints = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: "({} {} {})".format(*p)),
        inner.map(lambda text: f"(not {text})"),
    ),
    max_leaves=4,
)


@given(constraints, st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=1, max_size=5))
def test_an_expression_holds_where_python_says_so(text: str, rows: list[tuple[int, int, int]]) -> None:
    columns = {
        name: np.array(column, float) for name, column in zip(NAMES, zip(*rows, strict=True), strict=True)
    }
    found = holds(text, columns)
    for row, answer in zip(rows, found, strict=True):
        try:
            expected = eval(text, {}, dict(zip(NAMES, row, strict=True)))
        except ZeroDivisionError:
            continue
        assert answer == bool(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b == 0 or a % b == 0", [True, True, False]),
        ("a % b == 0", [False, True, False]),
        ("a", [True, True, True]),
        ("b and not word == 'row'", [False, False, True]),
        ("word in ['row', 'tile']", [True, True, False]),
        ("word != 'row'", [False, False, True]),
        ("(a > 4) * a >= 8", [True, False, False]),
        ("True", [True, True, True]),
        ("a ** 2 == 64 and -a < +b", [True, False, False]),
    ],
)
def test_edges(text: str, expected: list[bool]) -> None:
    columns = {
        "a": np.array([8.0, 4.0, 7.0]),
        "b": np.array([0.0, 2.0, 2.0]),
        "word": np.array(["row", "row", "column"], dtype=object),
    }
    assert holds(text, columns).tolist() == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("__import__('os').system('touch stolen')", "is not allowed"),
        ("a.real > 0", "is not allowed"),
        ("[x for x in (1, 2)]", "is not allowed"),
        ("(lambda: 1)()", "is not allowed"),
        ("a if b else c", "is not allowed"),
        ("a & b", "is not allowed"),
        ("a is b", "`is` is not allowed"),
        ("a in b", "`in` wants a list"),
        ("d > 1", "d is no parameter, these are: a, b, c"),
        ("a >", "is not an expression"),
        ("a = 1", "is not an expression"),
        ("", "is not an expression"),
        ("a > 'x'", "'x' is no number"),
        ("'x'", "a word is neither true nor false"),
        ("(" * 5000, "is n"),
        ("a < " + "1" * 9000, ""),
        ("1 + " * 4000, "characters"),
        ("a\0", "is not an expression"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    with pytest.raises(HwsearchError, match="accepted") as refusal:
        holds(text, {name: np.array([1.0, 2.0]) for name in NAMES})
    assert why in str(refusal.value)
