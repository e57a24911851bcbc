"""Named rules that are known before anything is priced, each a mask over a table of shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.gpu.profile import Gpu
from hwsearch.shape.parameters import body_parameters, masked_lm_parameters
from hwsearch.shape.quality_prior import effective_parameters
from hwsearch.shape.table import Column, ShapeTable
from hwsearch.space.schema import Objective, SpaceFile
from hwsearch.workload import Workload

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Constraint:
    """A rule with the name it has in reports and its test, True where a shape passes."""

    name: str
    passes: Callable[[ShapeTable], Mask]


def layer_outputs(shapes: ShapeTable) -> dict[str, Column]:
    """Rows of each weight matrix of a layer, the N of its GEMM in the forward pass."""
    h = shapes.hidden_size
    return {
        "Wqkv": h + 2 * shapes.key_value_heads * shapes.head_size,
        "attention Wo": h,
        "Wi": shapes.intermediate_size * (1 + shapes.architecture.gated_mlp),
        "mlp Wo": h,
    }


def known_constraints(
    space: SpaceFile, gpus: Sequence[Gpu], workloads: Sequence[Workload]
) -> tuple[Constraint, ...]:
    """The space's rules in the order in which they are applied and counted."""
    rules = [Constraint("parameter_budget", lambda s: _within_budget(s, space))]
    for name, measure in MEASURES.items():
        objective = getattr(space.objectives, name)
        if objective is not None and (objective.min is not None or objective.max is not None):
            rules.append(
                _bounds(name, measure, objective, float(measure(ShapeTable.of([space.reference]))[0]))
            )
    switches = space.constraints
    if switches.gemm_dims_multiple_of_64:
        rules.append(Constraint("gemm_dims_multiple_of_64", _gemm_dims_multiple_of_64))
    if switches.head_size_multiple_of_64:
        rules.append(Constraint("head_size_multiple_of_64", lambda s: s.head_size % 64 == 0))
    # Every architecture that a space holds unpads, so M is the count of real tokens.
    tokens = [workload.tokens for workload in workloads]
    if (tiles := switches.output_tile_divisibility) is not None:
        rules.append(Constraint("output_tile_divisibility", lambda s: _whole_tiles(s, tokens, tiles.tile)))
    if (waves := switches.wave_utilisation) is not None:
        rules.append(
            Constraint(
                "wave_utilisation",
                lambda s: lowest_wave_utilisation(s, tokens, gpus, waves.tile) >= waves.min,
            )
        )
    if switches.last_layer_is_global:
        rules.append(
            Constraint(
                "last_layer_is_global",
                lambda s: (s.num_hidden_layers - 1) % s.global_attn_every_n_layers == 0,
            )
        )
    return tuple(rules)


MEASURES: dict[str, Callable[[ShapeTable], NDArray[np.float64]]] = {
    "depth": lambda s: s.num_hidden_layers.astype(float),
    "body_parameters": lambda s: np.asarray(body_parameters(s), dtype=float),
    "quality_prior": effective_parameters,
}
"""What is known of a shape without pricing it, under the names of the objectives."""


def lowest_wave_utilisation(
    shapes: ShapeTable, tokens: Sequence[int], gpus: Sequence[Gpu], tile: Sequence[int]
) -> NDArray[np.float64]:
    """Share of SM slots that hold a tile, blocks / (SMs * waves), [N]: the worst over the layers' forward
    GEMMs, the GPUs and the workloads, each in the better of the tile's two orientations."""
    lowest = np.ones(len(shapes))
    sms = sorted({gpu.sms for gpu in gpus})
    for rows in set(tokens):
        for outputs in layer_outputs(shapes).values():
            for count in sms:
                best = np.zeros(len(shapes))
                for tile_m, tile_n in (tile, tile[::-1]):
                    blocks = -(-rows // tile_m) * -(-outputs // tile_n)
                    best = np.maximum(best, blocks / (count * -(-blocks // count)))
                lowest = np.minimum(lowest, best)
    return lowest


def _within_budget(shapes: ShapeTable, space: SpaceFile) -> Mask:
    parameters = masked_lm_parameters(shapes)
    return np.asarray((parameters >= space.budget.min) & (parameters <= space.budget.max))


def _bounds(
    name: str,
    measure: Callable[[ShapeTable], NDArray[np.float64]],
    objective: Objective,
    reference: float,
) -> Constraint:
    low = reference if objective.min == "reference" else objective.min
    high = reference if objective.max == "reference" else objective.max

    def passes(shapes: ShapeTable) -> Mask:
        values = measure(shapes)
        return (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))

    return Constraint(name, passes)


def _gemm_dims_multiple_of_64(shapes: ShapeTable) -> Mask:
    # The K of every GEMM is the width or the unfused feed-forward size; the decoder's N is the vocabulary.
    sizes = [*layer_outputs(shapes).values(), shapes.hidden_size, shapes.intermediate_size, shapes.vocab_size]
    return np.asarray(np.logical_and.reduce([size % 64 == 0 for size in sizes]))


def _whole_tiles(shapes: ShapeTable, tokens: Sequence[int], tile: Sequence[int]) -> Mask:
    """Each M x N output of a layer's forward GEMMs divides into whole tiles, in one orientation."""
    passes = np.ones(len(shapes), dtype=bool)
    for rows in set(tokens):
        for outputs in layer_outputs(shapes).values():
            passes &= np.logical_or.reduce(
                [(rows % tile_m == 0) & (outputs % tile_n == 0) for tile_m, tile_n in (tile, tile[::-1])]
            )
    return passes
