"""Constraint expressions of other people's files, worked out for all configurations at once, never executed.

Python's arithmetic, comparisons, `and`, `or`, `not` and lists after `in`, on parameters and literal values.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import HwsearchError

Column = NDArray[Any]
"""[N]: float64 for numbers and truth values, object for words."""

LONGEST_EXPRESSION = 10_000
ACCEPTED = "accepted: arithmetic, comparisons, `and`, `or`, `not` and `in [...]` on the parameters"

_ARITHMETIC: dict[type[ast.operator], Callable[[Column, Column], Column]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Column], Column]] = {ast.UAdd: np.positive, ast.USub: np.negative}
_ORDERS: dict[type[ast.cmpop], Callable[[Column, Column], Column]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


def holds(expression: str, parameters: Mapping[str, Column]) -> NDArray[np.bool_]:
    """[N], where `expression` is true of the parameters' columns.

    What has no value (a division by zero) makes a comparison false, so that `b == 0 or a % b == 0` means
    what it says. Raises HwsearchError for anything but the above, and for names that are no parameters.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise HwsearchError(
            f"a constraint of {len(expression):,} characters; accepted: {LONGEST_EXPRESSION:,}"
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        with np.errstate(all="ignore"):
            value = _value(tree, parameters, expression)
            count = len(next(iter(parameters.values()))) if parameters else 1
            return np.broadcast_to(_truth(value, expression), (count,)).copy()
    except (SyntaxError, ValueError) as error:
        raise _refused(expression, "is not an expression") from error
    except (RecursionError, MemoryError) as error:
        raise _refused(expression[:80], "is nested too deeply") from error


def _value(node: ast.expr, parameters: Mapping[str, Column], expression: str) -> Column:
    def value(child: ast.expr) -> Column:
        return _value(child, parameters, expression)

    def number(child: ast.expr) -> Column:
        found = value(child)
        if found.dtype == object:
            raise _refused(expression, f"{ast.unparse(child)} is no number")
        return found.astype(float)

    match node:
        case ast.Constant(value=bool() | int() | float() as constant):
            try:
                return np.array(float(constant))
            except OverflowError as error:
                raise _refused(expression, "holds a number that is too large") from error
        case ast.Constant(value=str() as word):
            return np.array(word, dtype=object)
        case ast.Name(id=name):
            if name not in parameters:
                raise _refused(expression, f"{name} is no parameter, these are: {', '.join(parameters)}")
            return parameters[name]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _ARITHMETIC[type(operator)](number(left), number(right))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return np.logical_not(_truth(value(operand), expression))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](number(operand))
        case ast.BoolOp(op=operator, values=operands):
            join = np.logical_and if isinstance(operator, ast.And) else np.logical_or
            truths = [_truth(value(operand), expression) for operand in operands]
            result = truths[0]
            for truth in truths[1:]:
                result = join(result, truth)
            return result
        case ast.Compare(left=left, ops=comparisons, comparators=comparators):
            result = np.array(True)
            for comparison, right in zip(comparisons, comparators, strict=True):
                result = result & _comparison(left, comparison, right, value, number, expression)
                left = right
            return result
    raise _refused(expression, f"{ast.unparse(node)[:80]!r} is not allowed")


def _comparison(
    left: ast.expr,
    operator: ast.cmpop,
    right: ast.expr,
    value: Callable[[ast.expr], Column],
    number: Callable[[ast.expr], Column],
    expression: str,
) -> Column:
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise _refused(expression, "`in` wants a list")
        found = np.array(False)
        for member in right.elts:
            found = found | _equal(value(left), value(member))
        return ~found if isinstance(operator, ast.NotIn) else found
    if isinstance(operator, ast.Eq):
        return _equal(value(left), value(right))
    if isinstance(operator, ast.NotEq):
        return ~_equal(value(left), value(right))
    if type(operator) in _ORDERS:
        return _ORDERS[type(operator)](number(left), number(right))
    raise _refused(expression, "`is` is not allowed")


def _equal(left: Column, right: Column) -> Column:
    return np.asarray(np.equal(left, right), dtype=bool)


def _truth(column: Column, expression: str) -> NDArray[np.bool_]:
    if column.dtype == object:
        raise _refused(expression, "a word is neither true nor false")
    return np.asarray(column.astype(bool) & ~np.isnan(column.astype(float)))


def _refused(expression: str, why: str) -> HwsearchError:
    return HwsearchError(f"constraint {expression!r}: {why}; {ACCEPTED}")
