"""The feasible configurations of a kernel, enumerated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

Setting = bool | int | float | str
Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TuningSpace:
    """Every configuration that may be proposed.

    Attributes:
        names: the parameters.
        choices: of each parameter, the values it can take.
        codes: [N, parameters], the place of each configuration's value among its choices; no row twice.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[Setting, ...], ...]
    codes: Codes

    @classmethod
    def of(cls, names: Sequence[str], configurations: Sequence[Sequence[Setting]]) -> TuningSpace:
        """The space of these configurations; a parameter's choices are the values that occur."""
        columns = list(zip(*configurations, strict=True))
        choices = tuple(tuple(sorted(set(column), key=_order)) for column in columns)
        places = [{value: place for place, value in enumerate(values)} for values in choices]
        codes = [[place[v] for v in column] for place, column in zip(places, columns, strict=True)]
        return cls(tuple(names), choices, np.array(codes, dtype=np.int32).T)

    def __len__(self) -> int:
        return len(self.codes)

    def configuration(self, row: int) -> dict[str, Setting]:
        return {
            name: values[code]
            for name, values, code in zip(self.names, self.choices, self.codes[row], strict=True)
        }

    def row_of(self, configuration: Mapping[str, object]) -> int | None:
        """The row that holds `configuration`, None where it is not a feasible one."""
        try:
            key = tuple(
                place[configuration[name]] for name, place in zip(self.names, self._places, strict=True)
            )
        except (KeyError, TypeError):  # TypeError: a list is no value of any parameter
            return None
        return self._rows.get(key)

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        return {
            name: CategoricalDistribution(values)
            for name, values in zip(self.names, self.choices, strict=True)
        }

    @cached_property
    def _places(self) -> list[dict[object, int]]:
        return [{value: place for place, value in enumerate(values)} for values in self.choices]

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(codes): row for row, codes in enumerate(self.codes.tolist())}


def _order(value: Setting) -> tuple[bool, Setting]:
    return isinstance(value, str), value
