"""Many shapes as columns, so that a whole grid is counted and priced by array arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsearch.shape.architecture import MODERNBERT, Architecture
from hwsearch.shape.encoder_shape import EncoderShape

Column = NDArray[np.int64]


class Sizes(Protocol):
    """What an EncoderShape and a ShapeTable share: formulas written for one serve both."""

    @property
    def num_hidden_layers(self) -> Any: ...
    @property
    def hidden_size(self) -> Any: ...
    @property
    def num_attention_heads(self) -> Any: ...
    @property
    def key_value_heads(self) -> Any: ...
    @property
    def head_size(self) -> Any: ...
    @property
    def intermediate_size(self) -> Any: ...
    @property
    def vocab_size(self) -> Any: ...
    @property
    def max_position_embeddings(self) -> Any: ...
    @property
    def num_global_layers(self) -> Any: ...
    @property
    def window(self) -> Any: ...
    @property
    def architecture(self) -> Architecture: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapeTable:
    """Columns of N shapes of one architecture, each an int64 array of shape [N]."""

    num_hidden_layers: Column
    hidden_size: Column
    num_attention_heads: Column
    key_value_heads: Column
    intermediate_size: Column
    vocab_size: Column
    global_attn_every_n_layers: Column
    local_attention: Column
    max_position_embeddings: Column
    architecture: Architecture = MODERNBERT

    @classmethod
    def of(cls, shapes: Sequence[EncoderShape]) -> ShapeTable:
        """Columns from shapes; all must share one architecture."""
        (architecture,) = {shape.architecture for shape in shapes}
        columns = {name: np.array([getattr(s, name) for s in shapes], dtype=np.int64) for name in COLUMNS}
        return cls(**columns, architecture=architecture)

    def __len__(self) -> int:
        return len(self.num_hidden_layers)

    @property
    def head_size(self) -> Column:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_global_layers(self) -> Column:
        return -(-self.num_hidden_layers // self.global_attn_every_n_layers)

    @property
    def window(self) -> Column:
        return self.local_attention // 2

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> ShapeTable:
        """The rows picked by a mask or by indices."""
        return ShapeTable(
            **{name: getattr(self, name)[rows] for name in COLUMNS}, architecture=self.architecture
        )

    def shape(self, row: int) -> EncoderShape:
        values = {name: int(getattr(self, name)[row]) for name in COLUMNS}
        values["num_key_value_heads"] = values.pop("key_value_heads")
        return EncoderShape(**values, architecture=self.architecture)


COLUMNS = tuple(f.name for f in fields(ShapeTable) if f.name != "architecture")
