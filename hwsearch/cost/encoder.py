"""The time of a whole encoder: its operators priced once per distinct layer, then added up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwsearch.cost.batch import Batch
from hwsearch.cost.distinct import Distinct, DistinctLayers, Seconds
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape.table import Column
from hwsearch.workload import Workload

# Kernels outside the layers (embedding, its norm), of the masked-LM head (dense, activation, norm,
# decoder, loss), and of DeBERTa's relative positions in a layer.
EMBEDDING_KERNELS, HEAD_KERNELS, DISENTANGLED_KERNELS = 2, 5, 12


@dataclass(frozen=True, eq=False)
class Part:
    """One operator of N encoders: its seconds per distinct layer [D], and how often each encoder runs it."""

    name: str
    distinct: Distinct
    each: Seconds
    times: Column | int

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

    Training adds the backward pass and one optimizer step. Raises HwsearchError for a dtype that
    the GPU lacks.
    """
    shapes, runtime = layers.shapes, RUNTIMES[settings.runtime]
    architecture = shapes.architecture
    batch = Batch(gpu, workload, settings, unpads=architecture.unpads)
    tokens = batch.tokens
    w, ff, local = layers.widths, layers.feed_forwards, layers.windows
    hidden, intermediate = w["hidden"], ff["intermediate"]
    key_rows = w["kv_heads"] * (hidden // w["heads"])
    fused = intermediate * (1 + architecture.gated_mlp)
    activation = runtime.gated_streams if architecture.gated_mlp else runtime.plain_streams
    depth, global_layers = shapes.num_hidden_layers, shapes.num_global_layers
    embedding = batch.streams(tokens, hidden, (2,)) + batch.streams(tokens, hidden, (2,), norm=True)
    residuals = 2 * batch.streams(tokens, hidden, runtime.residual_streams)
    norms = 2 * batch.streams(tokens, hidden, runtime.norm_streams, norm=True)
    parts = [
        Part("embedding", w, embedding, 1),
        Part("attention Wqkv", w, batch.gemm(tokens, hidden + 2 * key_rows, hidden), depth),
        Part("attention global", w, batch.attention(w), global_layers),
        Part("attention local", local, batch.attention(local, local["window"]), depth - global_layers),
        Part("attention Wo", w, batch.gemm(tokens, hidden, hidden), depth),
        Part("feed-forward Wi", ff, batch.gemm(tokens, fused, ff["hidden"]), depth),
        Part("feed-forward activation", ff, batch.streams(tokens, intermediate, activation), depth),
        Part("feed-forward Wo", ff, batch.gemm(tokens, ff["hidden"], intermediate), depth),
        Part("residuals and norms", w, residuals + norms, depth),
    ]
    kernels = EMBEDDING_KERNELS + depth * runtime.kernels_per_layer(architecture)
    if architecture.position == "rope":
        parts.append(Part("rotary embedding", w, batch.streams(tokens, hidden + key_rows, (2,)), depth))
    if architecture.position == "relative":
        disentangled = batch.disentangled(w, architecture.position_rows)
        parts.append(Part("disentangled attention", w, disentangled, depth))
        kernels = kernels + depth * DISENTANGLED_KERNELS
    if rows := settings.head_tokens(tokens):
        parts.append(Part("head", layers.vocabularies, _head(layers, batch, rows), 1))
        kernels = kernels + HEAD_KERNELS
    if settings.training:
        parts.append(Part("optimizer", layers.sizes, batch.optimizer(layers.sizes["parameters"]), 1))
        kernels = kernels * 3
    return EncoderTime(tuple(parts), np.asarray(kernels * runtime.host_s_per_kernel, dtype=float))


def _head(layers: DistinctLayers, batch: Batch, rows: int) -> Seconds:
    """Masked-LM head on `rows` positions: dense, activation and norm, decoder, and the loss in training."""
    v = layers.vocabularies
    decoder = batch.gemm(rows, v["vocab"], v["hidden"])
    if batch.settings.training:
        # Cross entropy reads the logits twice: for the log-sum-exp and for the probabilities.
        decoder = decoder + batch.streams(rows, v["vocab"], (2,))
    if not layers.shapes.architecture.mlm_transform:
        return decoder
    transform = batch.gemm(rows, v["hidden"], v["hidden"]) + batch.streams(rows, v["hidden"], (2,))
    return decoder + transform + batch.streams(rows, v["hidden"], (2,), norm=True)
