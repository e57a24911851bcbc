"""Sizes near a shape's own that save more time than their share, or cost less of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.cost.prediction import Prediction, count_workload_flops
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape.encoder_shape import LARGEST_SIZE, EncoderShape
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload

# Common encoders have feed-forward sizes in multiples of this, as tiles do.
FEED_FORWARD_STEP = 64
# How far from the shape's own size neighbours are looked for.
REACH = 0.25
# A change below this share of the latency is none; further below the trend a size is worth telling.
NOTHING, NOTICEABLE = 1e-3, 1e-2

Field = Literal["intermediate_size", "hidden_size"]
# Time grows with the feed-forward size, and with the square of the width: the trend of each.
DEGREES: dict[Field, int] = {"intermediate_size": 1, "hidden_size": 2}
Reason = Literal[
    "nearest faster", "saves more than its share", "next step", "costs less than its share", "costs nothing"
]


@dataclass(frozen=True)
class Neighbour:
    """A shape with another width or feed-forward size, all else equal; changes are shares of the present.

    Attributes:
        field: hidden_size, by whole heads of the same size, or intermediate_size.
        value: of that field.
        reason: why it is told. Of the smaller ones the `nearest faster`, and the nearest that `saves more
            than its share`, which is the trend over all neighbours of the field; of the larger ones the
            `next step`, the nearest that `costs less than its share` and the largest that `costs nothing`.
        change: of the field.
        latency_change, trend_change: of the latency, and what a smooth curve through all neighbours of
            the field would make of it.
        parameters_change: of all parameters, the masked-LM head included.
    """

    shape: str
    field: Field
    value: int
    reason: Reason
    latency_s: float
    change: float
    latency_change: float
    trend_change: float
    flops_change: float
    parameters_change: float


def find_neighbours(
    prediction: Prediction, shape: EncoderShape, gpu: Gpu, workload: Workload, settings: Settings
) -> tuple[Neighbour, ...]:
    """The neighbours of `shape`, for which `prediction` was made with the other arguments."""
    found: list[Neighbour] = []
    fields: dict[Field, dict[int, EncoderShape]] = {
        "intermediate_size": _feed_forwards(shape),
        "hidden_size": _widths(shape),
    }
    for field, sizes in fields.items():
        if sizes:
            shapes = list(sizes.values())
            latencies = encoder_time(DistinctLayers(ShapeTable.of(shapes)), gpu, workload, settings).latency
            now = getattr(shape, field)
            degree = DEGREES[field]
            trend = np.polynomial.Polynomial.fit([*sizes, now], [*latencies, prediction.latency_s], degree)
            priced = [
                Neighbour(
                    shape=str(other),
                    field=field,
                    value=value,
                    reason="next step",
                    latency_s=float(latency_s),
                    change=value / now - 1,
                    latency_change=float(latency_s) / prediction.latency_s - 1,
                    trend_change=float(trend(value) - trend(now)) / prediction.latency_s,
                    flops_change=count_workload_flops(other, workload, settings) / prediction.flops - 1,
                    parameters_change=masked_lm_parameters(other) / masked_lm_parameters(shape) - 1,
                )
                for (value, other), latency_s in zip(sizes.items(), latencies, strict=True)
            ]
            found += _telling(priced)
    return tuple(found)


def _feed_forwards(shape: EncoderShape) -> dict[int, EncoderShape]:
    sizes = _multiples(shape.intermediate_size, FEED_FORWARD_STEP)
    return {size: replace(shape, intermediate_size=size) for size in sizes}


def _widths(shape: EncoderShape) -> dict[int, EncoderShape]:
    """Other counts of heads; those of keys and values keep their proportion."""
    group = shape.num_attention_heads // shape.key_value_heads
    return {
        size: replace(
            shape,
            hidden_size=size,
            num_attention_heads=size // shape.head_size,
            num_key_value_heads=size // shape.head_size // group,
        )
        for size in _multiples(shape.hidden_size, shape.head_size * group)
    }


def _multiples(now: int, step: int) -> list[int]:
    """Multiples of `step` within reach of `now` but for itself; of a small size at least the next ones."""
    reach = max(step, int(REACH * now))
    low, high = max(1, -(-(now - reach) // step)), min(now + reach, LARGEST_SIZE) // step
    return [count * step for count in range(low, high + 1) if count * step != now]


def _telling(neighbours: Sequence[Neighbour]) -> list[Neighbour]:
    """Of all neighbours in one size those worth telling, ordered by it."""
    smaller = sorted((n for n in neighbours if n.change < 0), key=lambda n: -n.value)
    larger = sorted((n for n in neighbours if n.change > 0), key=lambda n: n.value)
    below_trend = [n for n in neighbours if n.latency_change < n.trend_change - NOTICEABLE]
    told: dict[int, Neighbour] = {}

    def tell(reason: Reason, candidates: list[Neighbour]) -> None:
        if candidates:
            told[candidates[0].value] = replace(candidates[0], reason=reason)

    tell("next step", larger)
    tell("nearest faster", [n for n in smaller if n.latency_change < -NOTHING])
    tell("saves more than its share", [n for n in smaller if n in below_trend])
    tell("costs less than its share", [n for n in larger if n in below_trend])
    tell("costs nothing", [n for n in reversed(larger) if n.latency_change <= NOTHING])
    return [told[value] for value in sorted(told)]
