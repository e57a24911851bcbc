"""A shape as the parameters of an Optuna trial, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hwsearch.shape.table import ShapeTable
from hwsearch.space.grid import intermediate_sizes, shape_table
from hwsearch.space.schema import ShapeSection

NAMES = (
    "num_hidden_layers",
    "hidden_size",
    "head_size",
    "intermediate_size",
    "global_attn_every_n_layers",
    "local_attention",
    "vocab_size",
)
Key = tuple[int, ...]
"""A shape's values in the order of NAMES."""


def candidate_values(section: ShapeSection) -> dict[str, tuple[int, ...]]:
    """Every value that each parameter can take anywhere in the space."""
    values = {name: getattr(section, name) for name in NAMES if name != "intermediate_size"}
    intermediates = {i for h in section.hidden_size for i in intermediate_sizes(section, h)}
    values["intermediate_size"] = tuple(sorted(intermediates))
    return {name: values[name] for name in NAMES}


def distributions(values: Mapping[str, Sequence[int]]) -> dict[str, BaseDistribution]:
    """Parameters that vary: evenly spaced ones as integers, others as categories."""
    found: dict[str, BaseDistribution] = {}
    for name, candidates in values.items():
        if len(candidates) < 2:
            continue
        steps = np.diff(candidates)
        if (steps == steps[0]).all():
            found[name] = IntDistribution(candidates[0], candidates[-1], step=int(steps[0]))
        else:
            found[name] = CategoricalDistribution(tuple(candidates))
    return found


def keys(shapes: ShapeTable) -> list[Key]:
    columns = np.stack([getattr(shapes, name) for name in NAMES], axis=1)
    return [tuple(row) for row in columns.tolist()]


def key_of(params: Mapping[str, Any], values: Mapping[str, Sequence[int]]) -> Key:
    """A trial's shape; parameters that do not vary take their only value."""
    return tuple(int(params.get(name, values[name][0])) for name in NAMES)


def shapes_of(found: Sequence[Key], section: ShapeSection) -> ShapeTable:
    columns = dict(zip(NAMES, np.array(found, dtype=np.int64).reshape(-1, len(NAMES)).T, strict=True))
    return shape_table(
        section,
        columns["num_hidden_layers"],
        columns["hidden_size"],
        columns["hidden_size"] // columns["head_size"],
        columns["intermediate_size"],
        columns["global_attn_every_n_layers"],
        columns["local_attention"],
        columns["vocab_size"],
    )
