"""Bytes of activations: what a forward pass holds at once, and what autograd saves for the backward pass.

All formulas count the tensors of the models' own eager code, checked tensor by tensor against torch
(results/memory.txt). Elements of the matrix products' dtype are `element` bytes wide; under autocast,
which training in bf16 or fp16 means here, the residual stream and the loss stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.runtime import RUNTIMES
from hwsearch.settings import Settings
from hwsearch.shape.architecture import Architecture
from hwsearch.shape.table import Sizes

Bytes = NDArray[np.float64]

FLOAT32 = 4
# Mean and reciprocal deviation of each row, float32.
NORM_STATISTICS_BYTES = 8
# Score matrices alive at once: softmax keeps its input and its output; DeBERTa the scores, both positional
# terms and their sum.
MATH_SCORES, DISENTANGLED_SCORES = 2, 4
# DeBERTa's mask of every query-key pair, shared by all heads: int64, and bool where autograd saves it.
MASK_BYTES, SAVED_MASK_BYTES = 8, 1
BAND_BLOCK = 64  # fewest queries of a block in hwsearch.kernels.backends.band


@dataclass(frozen=True)
class Code:
    """What the code of an encoder does beyond its wiring.

    Attributes:
        hidden_states: so many are alive while the feed-forward runs, its own input among them.
        projections: products that make q, k and v; each casts the same input for itself under autocast.
        banded: local layers copy q, k, v into padded blocks and mask them (hwsearch.kernels.backends.band).
        sparse_end: after the last attention only the tokens that the head reads go on.
    """

    hidden_states: int = 3
    projections: int = 1
    banded: bool = False
    sparse_end: bool = False


# hwsearch.model for ModernBERT; else the models' public code.
CODES = {
    "modernbert": Code(banded=True, sparse_end=True),
    "bert": Code(projections=3),
    "roberta": Code(projections=3),
    "deberta-v3": Code(projections=3),
    "nomic-bert": Code(hidden_states=4),
    "gte": Code(hidden_states=4),
}


@dataclass(frozen=True)
class Load:
    """What a batch asks of an encoder; numbers, or arrays [N] with one per shape.

    Attributes:
        tokens: all that are computed, padding included.
        sequences: of the batch.
        pairs: query-key pairs of one head, the sum of squared lengths.
        head_tokens: positions that go through the masked-LM head.
    """

    tokens: Any
    sequences: Any
    pairs: Any
    head_tokens: Any


@dataclass(frozen=True)
class Saved:
    """What autograd keeps, bytes [N] each.

    Attributes:
        per_layer: tensors saved by one layer.
        unread: what the last layer does not save of that, for tokens that nobody reads.
        layer_input: the residual stream at its door, all that recomputation keeps of it.
        norms: those outside the layers.
        head: masked-LM head and loss.
        layer_gradients: more at the worst moment of one layer's backward pass.
        head_gradients: the same for the loss and the head.
        logits: alive beside `head` at the end of the forward pass, with their float32 copy.
    """

    per_layer: Bytes
    unread: Bytes
    layer_input: Bytes
    norms: Bytes
    head: Bytes
    layer_gradients: Bytes
    head_gradients: Bytes
    logits: Bytes


def held_bytes(shapes: Sizes, load: Load, settings: Settings, element: int, code: Code) -> Bytes:
    """Most bytes alive at once in a forward pass without gradients, weights apart, [N]."""
    a, s, kernels = shapes.architecture, _Widths.of(shapes), RUNTIMES[settings.runtime].half
    activations = kernels.gated if a.gated_mlp else kernels.plain
    # Every kernel of the activation writes a tensor of its own.
    branches = (1 + a.gated_mlp + len(activations)) * s.intermediate
    stages = [
        load.tokens * element * (code.hidden_states * s.hidden + branches),
        _attention_bytes(a, s, load, settings, element, code),
    ]
    if not a.final_norm:
        # A norm after the second residual add: the add's operands and sum, and the norm's output.
        stages.append(load.tokens * element * ((code.hidden_states + 3) * s.hidden + s.intermediate))
    if settings.head == "mlm":
        logits = load.head_tokens * element * (s.vocab + a.mlm_transform * s.hidden)
        stages.append(logits + load.tokens * element * s.hidden)
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*stages)), dtype=float)


def _attention_bytes(
    a: Architecture, s: _Widths, load: Load, settings: Settings, element: int, code: Code
) -> Any:
    """Around the attention: the stream and its norm, q, k, v with their rotated copies, and the output."""
    before = (code.hidden_states - 1) * s.hidden + s.qkv
    rotated = s.rotated if a.position == "rope" else 0
    if a.position == "relative":
        terms = element * s.heads * (DISENTANGLED_SCORES * load.pairs + load.tokens * a.position_rows)
        # A transposed copy of q, k or v is still alive beside them.
        tensors = load.tokens * (before + s.query) + 2 * load.sequences * a.position_rows * s.query
        return terms + MASK_BYTES * load.pairs + element * tensors
    if settings.attention == "math":
        # v is copied to be contiguous for the batched product.
        tensors = load.tokens * element * (before + rotated + 2 * s.query)
        return load.pairs * MATH_SCORES * element * s.heads + tensors
    attending = before + rotated + s.query
    if a.position != "rope":
        return load.tokens * element * attending
    if code.banded:
        attending = attending + np.where(s.local, s.qkv + s.band, 0)
    if settings.runtime in ("compile", "tensorrt"):
        return load.tokens * element * attending
    # Eager rotation works in float32: a copy of what is turned, and four products of half its width.
    turning = s.query * (2 * FLOAT32 + (FLOAT32 if element < FLOAT32 else 0))
    return load.tokens * np.maximum(element * attending, element * (before + s.query) + turning)


def saved_bytes(shapes: Sizes, load: Load, settings: Settings, element: int, code: Code) -> Saved:
    """What training keeps for its backward pass; weights, gradients and optimizer states apart."""
    a, s = shapes.architecture, _Widths.of(shapes)
    norm = FLOAT32 * s.hidden + NORM_STATISTICS_BYTES
    # A fused projection casts its input once under autocast, three projections cast it three times.
    casts = code.projections if element < FLOAT32 else 1
    branches = (1 + a.gated_mlp) * s.intermediate
    # Layers without a gate keep one branch less; the mean over the layers.
    mean_branches = branches - a.initial_plain_layers / shapes.num_hidden_layers * s.intermediate
    # The inputs of Wqkv, Wo and Wi; Wi's output, the activation and, with a gate, its product.
    products = (casts + 1) * s.hidden + s.query + 2 * mean_branches
    attention = _saved_attention(a, s, load, settings, element, code, shapes)
    transform = element * 3 * s.hidden * a.mlm_transform + NORM_STATISTICS_BYTES
    read = load.head_tokens if code.sparse_end and settings.head == "mlm" else load.tokens
    # The second norm's input, Wi's and what follows; Wo's input, else the attention's output, is a copy more.
    after_attention = (load.tokens - read) * (norm + element * (s.hidden + 2 * branches))
    chosen = (read < load.tokens) * read * element * s.query
    # The first layer's missing norm makes up for the one before it.
    norms_outside = load.tokens * (a.embedding_norm - (not a.first_attention_norm)) + read * a.final_norm
    return Saved(
        per_layer=_array(load.tokens * (2 * norm + element * products) + attention),
        unread=_array(after_attention - chosen),
        layer_input=_array(load.tokens * FLOAT32 * s.hidden),
        norms=_array(norms_outside * norm),
        head=_array(load.head_tokens * (element * s.hidden + transform + FLOAT32 * s.vocab)),
        layer_gradients=_array(load.tokens * (FLOAT32 * s.hidden + element * branches)),
        # The gradients of the log-probabilities and of the logits in float32.
        head_gradients=_array(load.head_tokens * 2 * FLOAT32 * s.vocab),
        logits=_array(load.head_tokens * (element + FLOAT32 * (element < FLOAT32)) * s.vocab),
    )


def _saved_attention(
    a: Architecture,
    s: _Widths,
    load: Load,
    settings: Settings,
    element: int,
    code: Code,
    shapes: Sizes,
) -> Any:
    """q, k and v with their rotated copies, and the log-sum-exp; or the probabilities if scores are stored.

    The mean over the layers, where local ones differ.
    """
    if a.position == "relative":
        # Gathers save what they gather from.
        scores = element * s.heads * (load.pairs + 2 * load.tokens * a.position_rows)
        tables = 2 * element * load.sequences * a.position_rows * s.query
        return scores + SAVED_MASK_BYTES * load.pairs + tables + load.tokens * element * (s.qkv + s.query)
    everywhere = element * (s.qkv + (s.rotated if a.position == "rope" else 0))
    if settings.attention == "math":
        return element * load.pairs * s.heads + load.tokens * everywhere
    statistics = FLOAT32 * s.heads
    if not code.banded:
        return load.tokens * (everywhere + statistics)
    # Sequences of one length are attended together; the outputs of several lengths are joined by a copy.
    mixed = load.pairs * load.sequences > 1.0001 * load.tokens**2
    everywhere = everywhere + element * s.query * mixed
    local_share = 1 - shapes.num_global_layers / shapes.num_hidden_layers
    in_band = element * (s.qkv + s.query + s.band)
    tables = FLOAT32 * shapes.head_size  # cosines and sines of every token, gathered for the layer
    return load.tokens * (everywhere + local_share * (in_band - everywhere) + statistics + tables)


@dataclass(frozen=True)
class _Widths:
    """Columns of a table of shapes as float64, so that products with token counts cannot overflow."""

    hidden: Bytes
    heads: Bytes
    query: Bytes
    qkv: Bytes
    rotated: Bytes
    intermediate: Bytes
    vocab: Bytes
    band: Bytes  # keys that a query's block looks at in a local layer
    local: NDArray[np.bool_]  # whether there are local layers

    @classmethod
    def of(cls, shapes: Sizes) -> _Widths:
        size = shapes.head_size.astype(float)
        heads, kv_heads = shapes.num_attention_heads, shapes.key_value_heads
        return cls(
            hidden=shapes.hidden_size.astype(float),
            heads=heads.astype(float),
            query=heads * size,
            qkv=(heads + 2 * kv_heads) * size,
            rotated=(heads + kv_heads) * size,
            intermediate=shapes.intermediate_size.astype(float),
            vocab=shapes.vocab_size.astype(float),
            band=np.maximum(BAND_BLOCK, shapes.window) + 2.0 * shapes.window,
            local=shapes.num_global_layers < shapes.num_hidden_layers,
        )


def _array(values: Any) -> Bytes:
    return np.asarray(values, dtype=float)
