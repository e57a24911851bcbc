"""The distinct layers of a table of shapes: a grid of a million shapes has only thousands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.table import Column, ShapeTable

Seconds = NDArray[np.float64]
LARGEST_KEY = 2**62


@dataclass(frozen=True)
class Distinct:
    """Distinct rows of some columns.

    Attributes:
        columns: the distinct values by column name, each [D].
        index: the distinct row of each shape, [N].
    """

    columns: dict[str, Column]
    index: Column

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def spread(self, seconds: Seconds) -> Seconds:
        """Values per distinct row [D] as values per shape [N]."""
        return seconds[self.index]


def distinct(**columns: Column) -> Distinct:
    """Distinct rows of `columns`, each int64 [N] with values from -1."""
    key = np.zeros(len(next(iter(columns.values()))), dtype=np.int64)
    largest = 0
    for column in columns.values():
        radix = int(column.max(initial=0)) + 2
        if (largest + 1) * radix > LARGEST_KEY:
            key = np.unique(key, return_inverse=True)[1]
            largest = len(key)
        key = key * radix + (column + 1)
        largest = (largest + 1) * radix
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    return Distinct({name: column[first] for name, column in columns.items()}, index)


@dataclass(frozen=True, eq=False)
class DistinctLayers:
    """What a table of shapes is made of, found once and priced for every GPU and workload."""

    shapes: ShapeTable

    @cached_property
    def widths(self) -> Distinct:
        return distinct(**self._widths())

    @cached_property
    def windows(self) -> Distinct:
        return distinct(**self._widths(), window=self.shapes.window)

    @cached_property
    def feed_forwards(self) -> Distinct:
        s = self.shapes
        return distinct(hidden=s.hidden_size, intermediate=s.intermediate_size)

    @cached_property
    def vocabularies(self) -> Distinct:
        s = self.shapes
        return distinct(hidden=s.hidden_size, vocab=s.vocab_size)

    @cached_property
    def sizes(self) -> Distinct:
        return distinct(parameters=np.asarray(masked_lm_parameters(self.shapes)))

    def _widths(self) -> dict[str, Column]:
        s = self.shapes
        return {
            "hidden": s.hidden_size,
            "heads": s.num_attention_heads,
            "kv_heads": s.key_value_heads,
            "head_size": s.head_size,
        }
