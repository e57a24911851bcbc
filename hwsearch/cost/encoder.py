"""The time of a whole encoder: its operators priced once per distinct layer, then added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwsearch.cost.batch import TRAINING_KERNELS, Batch, WorkloadBatch
from hwsearch.cost.distinct import Distinct, DistinctLayers, Seconds
from hwsearch.cost.layer import (
    Attention,
    Operator,
    count_kernels,
    embedding_operators,
    head_operators,
    in_feed_forward,
    layer_operators,
    rotated_within,
)
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape.architecture import Architecture
from hwsearch.shape.table import Column
from hwsearch.workload import Workload


@dataclass(frozen=True, eq=False)
class Part:
    """Some operators of N encoders under one name.

    Attributes:
        each: their seconds per distinct layer, [D].
        times: how often each encoder runs them.
        operators: those priced; none for the optimizer.
        window: what their attention sees to each side in every distinct layer, None for all.
        recomputed: training runs them forward once more.
    """

    name: str
    distinct: Distinct
    each: Seconds
    times: Column | int
    operators: tuple[Operator, ...] = ()
    window: Column | None = None
    recomputed: bool = False

    @property
    def seconds(self) -> Seconds:
        """All executions together, [N]."""
        return np.asarray(self.times * self.distinct.spread(self.each))


@dataclass(frozen=True, eq=False)
class EncoderTime:
    """Time of one pass over the batch.

    Attributes:
        parts: the device's work by operator.
        host: seconds the CPU needs to launch everything, [N].
    """

    parts: tuple[Part, ...]
    host: Seconds

    @cached_property
    def device(self) -> Seconds:
        """Seconds of the device's work, [N]."""
        # Operators of the same distinct layers that run equally often are added before they are spread.
        groups: dict[tuple[int, int], list[Part]] = {}
        for part in self.parts:
            groups.setdefault((id(part.distinct), id(part.times)), []).append(part)
        total = np.zeros(len(self.host))
        for first, *others in groups.values():
            each = first.each + sum(part.each for part in others)
            total += first.times * first.distinct.spread(each)
        return total

    @property
    def latency(self) -> Seconds:
        """The device works while the host launches: the longer of the two, [N]."""
        return np.maximum(self.device, self.host)


def encoder_time(layers: DistinctLayers, gpu: Gpu, workload: Workload, settings: Settings) -> EncoderTime:
    """Price every shape behind `layers` on one GPU for one batch.

    Training adds the backward pass and one optimizer step, recomputation one more forward pass of the
    layers. Raises HwsearchError for a dtype that the GPU lacks.
    """
    shapes, runtime = layers.shapes, RUNTIMES[settings.runtime]
    architecture = shapes.architecture
    batch = WorkloadBatch.of(gpu, workload, settings, architecture)
    depth, global_layers = shapes.num_hidden_layers, shapes.num_global_layers
    reaches = {
        "global": Reach(layers.widths, None, global_layers),
        "local": Reach(layers.windows, layers.windows["window"], depth - global_layers),
    }
    settings = with_attention(settings, architecture, gpu)
    fused = settings.attention == "flash"
    kernels_of_layer = replace(runtime.kernels(gpu, batch.dtype), fused_attention=fused)
    layer = layer_operators(architecture, kernels_of_layer, settings.attention_cast_bytes(batch.dtype))
    # Counted with the rotation's, which configurations of our kernels may launch as well.
    launches = count_kernels(layer)
    if fused and batch.tuned and batch.tuned.knows(layers.windows, settings.training):
        layer = rotated_within(layer)
    embedding = embedding_operators()
    parts = outside_parts(embedding, layers.widths, batch)
    sizes = (layers.widths, layers.feed_forwards, reaches, depth)
    in_layers = layer_parts(layer, batch, *sizes)
    if settings.recompute:
        again = layer_parts(layer, replace(batch, training=False), *sizes)
        pairs = zip(in_layers, again, strict=True)
        in_layers = [replace(p, each=p.each + q.each, recomputed=True) for p, q in pairs]
    parts += in_layers
    kernels = count_kernels(embedding) + depth * launches
    if settings.head == "mlm":
        head = head_operators(architecture, settings.training)
        parts += outside_parts(head, layers.vocabularies, batch)
        kernels = kernels + count_kernels(head)
    if settings.training:
        parts.append(Part("optimizer", layers.sizes, batch.optimizer(layers.sizes["parameters"]), 1))
        kernels = kernels * TRAINING_KERNELS + settings.recompute * depth * launches
    return EncoderTime(tuple(parts), np.asarray(kernels * runtime.host_s_per_kernel, dtype=float))


def with_attention(settings: Settings, architecture: Architecture, gpu: Gpu) -> Settings:
    """The settings with the attention that runs: the one asked for, else what the runtime has on the GPU.

    Encoders that unpad bring a kernel of their own.
    """
    if settings.attention is not None:
        return settings
    kernels = RUNTIMES[settings.runtime].kernels(gpu, settings.dtype_on(gpu))
    fused = kernels.fused_attention or architecture.unpads
    return replace(settings, attention="flash" if fused else "math")


@dataclass(frozen=True, eq=False)
class Reach:
    """Layers whose attention sees as far: `window` keys to each side of every distinct one, None for all."""

    distinct: Distinct
    window: Column | None
    times: Column


def layer_parts(
    operators: tuple[Operator, ...],
    batch: Batch,
    widths: Distinct,
    feed_forwards: Distinct,
    reaches: Mapping[str, Reach],
    depth: Column,
) -> list[Part]:
    """What `operators`, run in each of `depth` layers, cost; those of one name are one part."""
    parts: dict[str, Part] = {}
    for operator in operators:
        if isinstance(operator, Attention):
            for name, reach in reaches.items():
                each = batch.seconds(operator, reach.distinct, reach.window)
                title = f"{operator.name} {name}".strip()
                parts[title] = Part(title, reach.distinct, each, reach.times, (operator,), reach.window)
            continue
        within = feed_forwards if in_feed_forward(operator) else widths
        part = parts.get(operator.name) or Part(operator.name, within, np.zeros(1), depth)
        each = part.each + batch.seconds(operator, within)
        parts[operator.name] = replace(part, each=each, operators=(*part.operators, operator))
    return list(parts.values())


def outside_parts(operators: tuple[Operator, ...], within: Distinct, batch: Batch) -> list[Part]:
    """Operators that an encoder runs once."""
    total: Seconds = sum((batch.seconds(operator, within) for operator in operators), start=np.zeros(1))
    return [Part(operators[0].name, within, total, 1, operators)]
