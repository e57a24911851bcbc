"""The rows of a model table: encoders whose layers may differ from each other, priced layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwsearch.cost.activations import CODES, FLOAT32, Load, held_bytes, saved_bytes
from hwsearch.cost.attention import attention_rows_seconds
from hwsearch.cost.batch import OPTIMIZER_BYTES_PER_PARAMETER, TRAINING_KERNELS, Batch, Count
from hwsearch.cost.distinct import Distinct, Seconds, distinct
from hwsearch.cost.encoder import EncoderTime, Reach, layer_parts, outside_parts
from hwsearch.cost.layer import Rows, count_kernels, decoder_operators, embedding_operators, layer_operators
from hwsearch.cost.memory import CONTEXT_BYTES, TRAINING_BYTES_PER_PARAMETER
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.stream import bytes_seconds
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import RuntimeName, Settings
from hwsearch.shape.architecture import BERT, Architecture
from hwsearch.shape.table import Column

# What the columns of a model table describe: padding is computed, and gated models are those that rotate
# queries and keys and keep their norms before the sublayers, as nearly all of them do.
PLAIN = replace(BERT, name="model table")
GATED = replace(PLAIN, gated_mlp=True, position="rope", position_rows=0, final_norm=True)


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
        layer = layer_operators(self.architecture, runtime.kernels(gpu, dtype))
        embedding = embedding_operators()
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
            device += bytes_seconds(gpu, self.parameters * OPTIMIZER_BYTES_PER_PARAMETER)
            kernels *= TRAINING_KERNELS
        return np.maximum(device, kernels * runtime.host_s_per_kernel)

    def peak_bytes(self, gpu: Gpu, dtype: str, runtime: RuntimeName, training: bool) -> Seconds:
        """Predicted peak memory, [N], with what `hwsearch.cost.activations` counts for a layer."""
        fused = RUNTIMES[runtime].kernels(gpu, dtype).fused_attention
        settings = Settings("training" if training else "inference", runtime, "none", dtype)
        settings = replace(settings, attention="flash" if fused else "math")
        element, code = BYTES_PER_ELEMENT[dtype], CODES["bert"]
        tokens, pairs = 1.0 * self.batch * self.seq, 1.0 * self.batch * self.seq * self.seq
        load = Load(tokens[self.owner], self.batch[self.owner], pairs[self.owner], 0.0)
        logits = tokens * self.vocab
        if not training:
            held = self._largest(held_bytes(_Layers(self), load, settings, element, code))
            held = np.maximum(held, element * (logits + tokens * self.hidden))
            return np.asarray(CONTEXT_BYTES + element * self.parameters + held)
        saved = saved_bytes(_Layers(self), load, settings, element, code)
        # Autocast keeps a copy of every weight in its dtype, and the loss works in float32.
        copied = element if element < FLOAT32 else 0
        weights = CONTEXT_BYTES + (TRAINING_BYTES_PER_PARAMETER + copied) * self.parameters
        kept = self._added(self.times * saved.per_layer) + self._largest(saved.norms)
        loss = logits * (element + 3 * FLOAT32)
        return np.asarray(weights + kept + np.maximum(self._largest(saved.layer_gradients), loss))

    def _of_owners(self) -> dict[str, Column]:
        return {name: getattr(self, name)[self.owner] for name in ("hidden", "batch", "seq")}

    def _attention(self) -> dict[str, Column]:
        heads = {"heads": self.heads, "kv_heads": self.heads, "head_size": self.head_size}
        return {**self._of_owners(), **heads}

    def _added(self, layers: Column | Seconds) -> Seconds:
        """Values per group of layers [M], added up per model [N]."""
        return np.bincount(self.owner, weights=layers, minlength=len(self)).astype(np.float64)

    def _largest(self, layers: Seconds) -> Seconds:
        """The largest value per group of layers [M] of each model, [N]."""
        largest = np.zeros(len(self))
        np.maximum.at(largest, self.owner, layers)
        return largest


@dataclass(frozen=True, eq=False)
class _Layers:
    """Every group of layers as the sizes of an encoder, [M], for formulas that are written for these."""

    models: ModelRows

    @property
    def architecture(self) -> Architecture:
        return self.models.architecture

    @property
    def hidden_size(self) -> Column:
        return self.models.hidden[self.models.owner]

    @property
    def num_attention_heads(self) -> Column:
        return self.models.heads

    key_value_heads = num_attention_heads

    @property
    def head_size(self) -> Column:
        return self.models.head_size

    @property
    def intermediate_size(self) -> Column:
        return self.models.intermediate

    @property
    def window(self) -> Column:
        return np.maximum(self.models.window, 0)

    @property
    def vocab_size(self) -> Column:
        return np.zeros_like(self.models.owner)

    @property
    def max_position_embeddings(self) -> Column:
        return self.models.seq[self.models.owner]

    @property
    def num_hidden_layers(self) -> Column:
        return self.models.times

    num_global_layers = num_hidden_layers


@dataclass(frozen=True)
class RowBatch(Batch):
    """Every model has a batch of its own: sequences of one length."""

    causal: bool

    def rows(self, name: Rows, sizes: Distinct) -> Count:
        match name:
            case "tokens" | "head_tokens":
                return sizes["batch"] * sizes["seq"]
            case "scores":
                return np.asarray(1.0 * sizes["batch"] * sizes["seq"] * sizes["seq"], dtype=np.float64)
            case "positions":
                return self.architecture.position_rows
            case _:
                return self.width(name, sizes)

    def sequences(self, sizes: Distinct) -> tuple[Column, Column]:
        return sizes["batch"][None], sizes["seq"][None]

    def attention(self, sizes: Distinct, window: Column | None, kernel: str | None) -> Seconds:
        return attention_rows_seconds(
            self.gpu,
            self.dtype,
            sizes["batch"],
            sizes["seq"],
            sizes["heads"],
            sizes["head_size"],
            window=window,
            causal=self.causal,
            kernel=kernel,
        )
