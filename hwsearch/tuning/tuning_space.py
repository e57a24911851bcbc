"""The feasible configurations of a kernel, enumerated and encoded for the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

Setting = bool | int | float | str
Codes = NDArray[np.int32]
Features = NDArray[np.float32]

# A parameter whose largest value is this many times its smallest acts through its ratio, not its difference.
LOGARITHMIC_FROM = 4.0


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
        except KeyError:
            return None
        return self._rows.get(key)

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        return {
            name: CategoricalDistribution(values)
            for name, values in zip(self.names, self.choices, strict=True)
        }

    @cached_property
    def varying(self) -> tuple[int, ...]:
        """The parameters that have more than one choice."""
        return tuple(i for i, values in enumerate(self.choices) if len(values) > 1)

    @cached_property
    def features(self) -> Features:
        """[N, features]: each number on 0..1, its logarithm where it spans much; words as indicators."""
        columns = [self._coordinates(i)[self.codes[:, i]] for i in self.varying]
        return np.concatenate([np.empty((len(self), 0)), *columns], axis=1).astype(np.float32)

    @cached_property
    def feature_parameters(self) -> NDArray[np.int64]:
        """[features], which of the varying parameters a feature belongs to."""
        widths = [self._coordinates(i).shape[1] for i in self.varying]
        return np.repeat(np.arange(len(widths)), widths)

    def _coordinates(self, parameter: int) -> NDArray[np.float64]:
        """[choices, features] of one parameter; two words lie 1 apart, as do the ends of a scale."""
        values = self.choices[parameter]
        if any(isinstance(value, str) for value in values):
            return np.asarray(np.eye(len(values)) / np.sqrt(2.0))
        scale = np.array(values, dtype=float)
        low, high = scale.min(), scale.max()
        if low > 0 and high / low >= LOGARITHMIC_FROM:
            scale = np.log2(scale)
        elif low == 0 and high >= LOGARITHMIC_FROM:
            scale = np.log2(scale + 1)
        return np.asarray((scale - scale.min()) / (scale.max() - scale.min()))[:, None]

    @cached_property
    def _places(self) -> list[dict[object, int]]:
        return [{value: place for place, value in enumerate(values)} for values in self.choices]

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(codes): row for row, codes in enumerate(self.codes.tolist())}


def _order(value: Setting) -> tuple[bool, Setting]:
    return isinstance(value, str), value
