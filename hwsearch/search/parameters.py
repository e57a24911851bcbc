"""A shape as the parameters of an Optuna trial, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from hwsearch.shape import EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.space.grid import INTERMEDIATE_STEP, intermediate_sizes, shape_table
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
    values["intermediate_size"] = section.intermediate_size or _all_intermediate_sizes(section)
    return {name: values[name] for name in NAMES}


def _all_intermediate_sizes(section: ShapeSection) -> tuple[int, ...]:
    """Multiples of the step from the smallest size of any width to the largest."""
    ends = [(sizes[0], sizes[-1]) for h in section.hidden_size if (sizes := intermediate_sizes(section, h))]
    if not ends:
        return (INTERMEDIATE_STEP,)
    first, last = min(low for low, _ in ends), max(high for _, high in ends)
    return tuple(range(first, last + 1, INTERMEDIATE_STEP))


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


def key_of(params: Mapping[str, Any], values: Mapping[str, Sequence[int]]) -> Key | None:
    """A trial's shape; parameters that do not vary take their only value. None where it is none of these
    values: whoever may write to a study must not choose what is built."""
    key = tuple(params.get(name, values[name][0] if len(values[name]) == 1 else None) for name in NAMES)
    return key if all(value in values[name] for name, value in zip(NAMES, key, strict=True)) else None


def params_of(key: Key, varying: Mapping[str, BaseDistribution]) -> dict[str, int]:
    """A shape as the parameters of a trial."""
    return {name: value for name, value in zip(NAMES, key, strict=True) if name in varying}


def as_params(shape: EncoderShape, section: ShapeSection) -> dict[str, tuple[int, BaseDistribution]]:
    """A shape as a trial's parameters with their distributions; none for one that the space does not hold."""
    key, accepted = keys(ShapeTable.of([shape]))[0], candidate_values(section)
    values = dict(zip(NAMES, key, strict=True))
    if shapes_of([key], section).shape(0) != shape or any(values[n] not in accepted[n] for n in NAMES):
        return {}
    return {name: (values[name], distribution) for name, distribution in distributions(accepted).items()}


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
