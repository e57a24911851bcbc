"""The words a space file uses for numbers: ranges, lists, and sizes such as 350M."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from hwsearch.shape.encoder_shape import LARGEST_SIZE

MAX_VALUES = 10_000
LARGEST_COUNT = 10**15
_COUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([KMGB]?)")
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


def _values(found: Any) -> tuple[int, ...]:
    """Distinct positive integers, ascending, from a number, a list or {min, max, step}."""
    accepted = "accepted: an integer, a list of integers, or {min, max, step}"
    if isinstance(found, dict):
        if unknown := sorted(str(key) for key in set(found) - {"min", "max", "step"}):
            raise ValueError(f"unknown key {unknown[0]!r} in a range; {accepted}")
        if not {"min", "max"} <= set(found):
            raise ValueError(f"a range needs min and max; {accepted}")
        low, high, step = (_integer(found.get(key, 1), accepted) for key in ("min", "max", "step"))
        if low > high:
            raise ValueError(f"the range {low}..{high} is empty; {accepted}")
        if (high - low) // step >= MAX_VALUES:
            raise ValueError(f"the range {low}..{high} has more than {MAX_VALUES:,} values")
        return tuple(range(low, high + 1, step))
    listed = found if isinstance(found, list) else [found]
    if not listed:
        raise ValueError(f"the list is empty; {accepted}")
    if len(listed) > MAX_VALUES:
        raise ValueError(f"the list has more than {MAX_VALUES:,} values")
    return tuple(sorted({_integer(value, accepted) for value in listed}))


def _integer(found: Any, accepted: str) -> int:
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(f"found {found!r}; {accepted}")
    if not 1 <= found <= LARGEST_SIZE:
        raise ValueError(f"found {found}; accepted: integers from 1 to {LARGEST_SIZE:,}")
    return found


def parse_count(found: Any) -> int:
    """A count such as 395881664, 350M or 1.5B."""
    if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= LARGEST_COUNT:
        return found
    match = _COUNT.fullmatch(found) if isinstance(found, str) else None
    if match is None:
        raise ValueError(f"found {found!r}; accepted: a positive integer or a text such as 350M")
    count = round(float(match[1]) * _FACTORS[match[2]])
    if not 1 <= count <= LARGEST_COUNT:
        raise ValueError(f"found {found}; accepted: 1 to {LARGEST_COUNT:,}")
    return count


Values = Annotated[tuple[int, ...], BeforeValidator(_values)]
Count = Annotated[int, BeforeValidator(parse_count)]
