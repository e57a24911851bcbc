"""The rows of a model table: encoders whose layers may differ from each other, priced layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwsearch.cost.batch import OPTIMIZER_BYTES_PER_PARAMETER, Batch
from hwsearch.cost.distinct import Distinct, Seconds, distinct
from hwsearch.cost.encoder import TRAINING_KERNELS, EncoderTime, Reach, layer_parts, outside_parts
from hwsearch.cost.layer import Rows, count_kernels, decoder_operators, embedding_operators, layer_operators
from hwsearch.cost.memory import CONTEXT_BYTES, TRAINING_BYTES_PER_PARAMETER
from hwsearch.cost.operators import Variant, attention_rows_seconds
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape.architecture import BERT, Architecture
from hwsearch.shape.table import Column

# What the columns of a model table describe: no rotation, no relative positions, padding is computed.
PLAIN = replace(BERT, name="model table")
GATED = replace(PLAIN, gated_mlp=True)


@dataclass(frozen=True, eq=False)
class ModelRows:
    """N models of one wiring and the groups of equal layers that they are made of.

    Attributes:
        hidden, batch, seq, vocab: int64 [N]; `vocab` 0 where there is no output head.
        owner, times: int64 [M]: the model of each group of layers, and how many layers it holds.
        heads, head_size, intermediate, window: int64 [M]; `window` -1 where attention is global.
        gated, causal: of all the models.
    """

    hidden: Column
    batch: Column
    seq: Column
    vocab: Column
    owner: Column
    times: Column
    heads: Column
    head_size: Column
    intermediate: Column
    window: Column
    gated: bool
    causal: bool

    def __len__(self) -> int:
        return len(self.hidden)

    @property
    def architecture(self) -> Architecture:
        return GATED if self.gated else PLAIN

    @cached_property
    def widths(self) -> Distinct:
        return distinct(**self._attention())

    @cached_property
    def windows(self) -> Distinct:
        return distinct(**self._attention(), window=self.window)

    @cached_property
    def feed_forwards(self) -> Distinct:
        return distinct(**self._of_owners(), intermediate=self.intermediate)

    @cached_property
    def models(self) -> Distinct:
        # A model without an output head is priced with the smallest, which `time` then leaves out.
        vocab = np.maximum(self.vocab, 1)
        return distinct(hidden=self.hidden, batch=self.batch, seq=self.seq, vocab=vocab)

    @cached_property
    def parameters(self) -> Column:
        """Weights of the layers and, with a vocabulary, of the embedding and an untied output head, [N]."""
        hidden, query = self.hidden[self.owner], self.heads * self.head_size
        per_layer = hidden * (4 * query + self.intermediate * (2 + self.gated) + 2 * PLAIN.norm_weights)
        return self._added(self.times * per_layer).astype(np.int64) + 2 * self.vocab * self.hidden

    def time(self, gpu: Gpu, dtype: str, runtime_name: RuntimeName, training: bool) -> Seconds:
        """Seconds of one pass over each model's own batch, [N]; in training with backward and AdamW step."""
        runtime = RUNTIMES[runtime_name]
        batch = RowBatch(gpu, dtype, training, self.architecture, self.causal)
        layer, embedding = layer_operators(self.architecture, runtime), embedding_operators()
        reaches = {"": Reach(self.windows, self.windows["window"], self.times)}
        parts = layer_parts(layer, batch, self.widths, self.feed_forwards, reaches, self.times)
        device = self._added(EncoderTime(tuple(parts), np.zeros(len(self.times))).device)
        kernels = count_kernels(embedding) + self._added(self.times) * count_kernels(layer)
        for part in outside_parts(embedding, self.models, batch):
            device += part.seconds
        decoder, has_head = decoder_operators(training), self.vocab > 0
        for part in outside_parts(decoder, self.models, batch):
            device += np.where(has_head, part.seconds, 0.0)
        kernels += has_head * count_kernels(decoder)
        if training:
            device += stream_seconds(gpu, self.parameters * OPTIMIZER_BYTES_PER_PARAMETER)
            kernels *= TRAINING_KERNELS
        return np.maximum(device, kernels * runtime.host_s_per_kernel)

    def peak_bytes(self, dtype: str, training: bool) -> Seconds:
        """Predicted peak memory, [N], counted as `hwsearch.cost.memory` counts encoders."""
        element = BYTES_PER_ELEMENT[dtype]
        tokens = (self.batch * self.seq).astype(np.float64)
        hidden, query = self.hidden[self.owner], self.heads * self.head_size
        fused = self.intermediate * (1 + self.gated)
        if training:
            saved = element * (4 * hidden + 4 * query + fused + 2 * self.intermediate) + 4 * self.heads
            layers = tokens * (self._added(self.times * saved) + element * self.hidden)
            logits = tokens * self.vocab * (element + 8)
            return CONTEXT_BYTES + self.parameters * TRAINING_BYTES_PER_PARAMETER + layers + logits
        widest = np.zeros(len(self), dtype=np.int64)
        np.maximum.at(widest, self.owner, np.maximum(4 * query, fused + self.intermediate))
        activations = np.maximum(2 * self.hidden + widest, self.vocab)
        return np.asarray(CONTEXT_BYTES + element * (self.parameters + tokens * activations))

    def _of_owners(self) -> dict[str, Column]:
        return {name: getattr(self, name)[self.owner] for name in ("hidden", "batch", "seq")}

    def _attention(self) -> dict[str, Column]:
        heads = {"heads": self.heads, "kv_heads": self.heads, "head_size": self.head_size}
        return {**self._of_owners(), **heads}

    def _added(self, layers: Column | Seconds) -> Seconds:
        """Values per group of layers [M], added up per model [N]."""
        return np.bincount(self.owner, weights=layers, minlength=len(self)).astype(np.float64)


@dataclass(frozen=True)
class RowBatch(Batch):
    """Every model has a batch of its own: sequences of one length."""

    causal: bool

    def rows(self, name: Rows, sizes: Distinct) -> Column | int:
        match name:
            case "tokens" | "head_tokens":
                return sizes["batch"] * sizes["seq"]
            case "queries":
                return sizes["batch"] * sizes["seq"] * sizes["heads"]
            case "scores":
                return sizes["batch"] * sizes["seq"] ** 2
            case "positions":
                return self.architecture.position_rows

    def attention(self, sizes: Distinct, window: Column | None) -> Seconds:
        columns = {
            "batch_size": sizes["batch"],
            "seq_len": sizes["seq"],
            "num_heads": sizes["heads"],
            "head_dim": sizes["head_size"],
            "window": np.full_like(sizes["seq"], -1) if window is None else window,
        }
        return attention_rows_seconds(self.gpu, self.dtype, columns, Variant(causal=self.causal))
