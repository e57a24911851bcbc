"""A kernel whose every configuration was measured: a device that answers from its records."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import HwsearchError
from hwsearch.tuning.expression import holds
from hwsearch.tuning.t1_file import T1
from hwsearch.tuning.tuning_space import TuningSpace


@dataclass(frozen=True, eq=False)
class RecordedSpace:
    """The configurations of a cache file, row by row.

    Attributes:
        times: [N] in the file's own unit, not a number where a configuration failed.
        seconds: [N], what measuring it cost: compile, verification, benchmark and framework times / 1000.
        failures: of the rows that failed, what the file says about them.
    """

    space: TuningSpace
    times: NDArray[np.float64]
    seconds: NDArray[np.float64]
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.space)

    @property
    def optimum(self) -> float:
        return float(np.nanmin(self.times))


def constrained(recorded: RecordedSpace, t1: T1, path: str) -> RecordedSpace:
    """The part of `recorded` that the T1 file's constraints allow; `path` names that file in errors.

    Raises HwsearchError where the two have other parameters, or where nothing is left. A T1 file may hold
    parameters with a single value that the records leave out.
    """
    space = recorded.space
    if missing := [name for name in space.names if name not in t1.parameters]:
        raise HwsearchError(
            f"{path}: has no parameter {', '.join(missing)}, which the cache has;"
            f" it has {', '.join(t1.parameters)}"
        )
    columns = {
        name: np.array(choices, dtype=object if any(isinstance(v, str) for v in choices) else float)[codes]
        for name, choices, codes in zip(space.names, space.choices, space.codes.T, strict=True)
    }
    for name, values in t1.parameters.items():
        if name not in columns:
            if values is None or len(values) != 1:
                raise HwsearchError(f"{path}: has the parameter {name}, which the cache has not")
            columns[name] = np.full(
                len(space), values[0], dtype=object if isinstance(values[0], str) else float
            )
    allowed = np.ones(len(space), dtype=bool)
    for constraint in t1.constraints:
        try:
            allowed &= holds(constraint, columns)
        except HwsearchError as error:
            raise HwsearchError(f"{path}: {error}") from error
        if not allowed.any():
            raise HwsearchError(f"{path}: no configuration of the cache is left after {constraint!r}")
    if np.isnan(recorded.times[allowed]).all():
        raise HwsearchError(f"{path}: every configuration of the cache that its constraints leave has failed")
    rows = np.flatnonzero(allowed)
    return RecordedSpace(
        replace(space, codes=space.codes[rows]),
        recorded.times[rows],
        recorded.seconds[rows],
        {new: recorded.failures[old] for new, old in enumerate(rows.tolist()) if old in recorded.failures},
    )
