"""The time of a whole encoder: its operators priced once per distinct layer, then added up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwsearch.cost.batch import Batch
from hwsearch.cost.distinct import DistinctLayers, Seconds
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.settings import Settings
from hwsearch.gpu.profile import Gpu
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.workload import Workload

# Kernels outside the layers (embedding, its norm), of the masked-LM head (dense, activation, norm,
# decoder, loss), and of DeBERTa's relative positions in a layer.
EMBEDDING_KERNELS, HEAD_KERNELS, DISENTANGLED_KERNELS = 2, 5, 12


@dataclass(frozen=True)
class EncoderTime:
    """Seconds of one pass over the batch, each array [N].

    Attributes:
        parts: time on the device by operator, summed over layers.
        host: time the CPU needs to launch everything.
    """

    parts: dict[str, Seconds]
    host: Seconds

    @property
    def device(self) -> Seconds:
        return np.asarray(sum(self.parts.values()))

    @property
    def latency(self) -> Seconds:
        """The device works while the host launches: the longer of the two."""
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
    local_layers = depth - global_layers
    parts = {
        "embedding": w.spread(batch.streams(tokens, hidden, (2, 2))),
        "attention Wqkv": depth * w.spread(batch.gemm(tokens, hidden + 2 * key_rows, hidden)),
        "attention global": global_layers * w.spread(batch.attention(w)),
        "attention local": local_layers * local.spread(batch.attention(local, local["window"])),
        "attention Wo": depth * w.spread(batch.gemm(tokens, hidden, hidden)),
        "feed-forward Wi": depth * ff.spread(batch.gemm(tokens, fused, ff["hidden"])),
        "feed-forward activation": depth * ff.spread(batch.streams(tokens, intermediate, activation)),
        "feed-forward Wo": depth * ff.spread(batch.gemm(tokens, ff["hidden"], intermediate)),
        "residuals and norms": 2
        * depth
        * w.spread(batch.streams(tokens, hidden, runtime.residual_norm_streams)),
    }
    kernels = EMBEDDING_KERNELS + depth * runtime.kernels_per_layer(architecture.gated_mlp)
    if architecture.position == "rope":
        parts["rotary embedding"] = depth * w.spread(batch.streams(tokens, hidden + key_rows, (2,)))
    if architecture.position == "relative":
        parts["disentangled attention"] = depth * w.spread(batch.disentangled(w, architecture.position_rows))
        kernels = kernels + depth * DISENTANGLED_KERNELS
    if rows := settings.head_tokens(tokens):
        parts["head"] = _head(layers, batch, rows)
        kernels = kernels + HEAD_KERNELS
    if settings.training:
        parts["optimizer"] = batch.optimizer(masked_lm_parameters(shapes))
        kernels = kernels * 3
    return EncoderTime(parts, np.asarray(kernels * runtime.host_s_per_kernel, dtype=float))


def _head(layers: DistinctLayers, batch: Batch, rows: int) -> Seconds:
    """Masked-LM head on `rows` positions: dense, activation and norm, decoder, and the loss in training."""
    v = layers.vocabularies
    decoder = batch.gemm(rows, v["vocab"], v["hidden"])
    if batch.settings.training:
        # Cross entropy reads the logits twice: for the log-sum-exp and for the probabilities.
        decoder = decoder + batch.streams(rows, v["vocab"], (2,))
    if not layers.shapes.architecture.mlm_transform:
        return v.spread(decoder)
    transform = batch.gemm(rows, v["hidden"], v["hidden"]) + batch.streams(rows, v["hidden"], (2, 2))
    return v.spread(decoder + transform)
