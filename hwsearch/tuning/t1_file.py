"""T1 files: a kernel's parameters and constraints, as the autotuning community exchanges them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.tuning.json_file import read_json

LARGEST_T1_BYTES = 16 << 20


@dataclass(frozen=True)
class T1:
    """What of a T1 file matters to a replay.

    Attributes:
        parameters: their values, None where the file gives a formula (`list(range(32, 1024))`), which
            is left alone: a cache names the values that were measured.
        constraints: expressions in Python's syntax that hold for every feasible configuration.
    """

    parameters: dict[str, tuple[bool | int | float | str, ...] | None]
    constraints: tuple[str, ...]


def read_t1(path: Path) -> T1:
    """Raises HwsearchError, with the key, for a file of another format."""
    document = read_json(path, LARGEST_T1_BYTES)
    space = _of(document, "ConfigurationSpace", dict, path, "a T1 file")
    parameters = {}
    for place, entry in enumerate(_of(space, "TuningParameters", list, path, "ConfigurationSpace")):
        name = _of(entry, "Name", str, path, f"TuningParameters[{place}]")
        if name in parameters:
            raise HwsearchError(f"{path}: the parameter {name} stands there twice")
        if "Values" not in entry:
            raise HwsearchError(f"{path}: the parameter {name} has no Values")
        parameters[name] = _values(entry["Values"])
    if not parameters:
        raise HwsearchError(f"{path}: TuningParameters is empty")
    conditions = _of(space, "Conditions", list, path, "ConfigurationSpace") if "Conditions" in space else []
    return T1(
        parameters,
        tuple(_of(entry, "Expression", str, path, f"Conditions[{i}]") for i, entry in enumerate(conditions)),
    )


def _values(written: Any) -> tuple[bool | int | float | str, ...] | None:
    if isinstance(written, str):
        try:
            written = ast.literal_eval(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(written, list | tuple) or not all(
        isinstance(value, bool | int | float | str) for value in written
    ):
        return None
    return tuple(written)


def _of(entry: Any, key: str, kind: type, path: Path, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise HwsearchError(
            f"{path}: {where} has no {key}; accepted: a T1 file (ConfigurationSpace, with"
            " TuningParameters and Conditions)"
        )
    if not isinstance(entry[key], kind):
        raise HwsearchError(
            f"{path}: {where}: {key} is {type(entry[key]).__name__}; accepted: {kind.__name__}"
        )
    return entry[key]
