"""What an encoder runs, as plain data: its kernels in order, with symbolic sizes.

This is the only description of a layer: `hwsearch.cost.encoder` prices it for tables of shapes,
`hwsearch.cost.models` for the rows of a model table, and the launches that a runtime pays for are counted
from it. To say that a runtime runs other kernels, change the lists here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwsearch.cost.runtime import Runtime
from hwsearch.settings import AttentionName
from hwsearch.shape.architecture import Architecture

# query, key: heads x head size, which need not be the hidden size; qkv, rotated: query + 2 key, query + key;
# fused: both GLU branches where there are two; positions: rows of the relative table; keys: that a query
# meets, the sequence's length.
Width = Literal[
    "hidden",
    "query",
    "key",
    "qkv",
    "rotated",
    "intermediate",
    "fused",
    "heads",
    "head_size",
    "keys",
    "positions",
    "vocab",
]
# tokens: padding included where it is computed; scores: query-key pairs of one head; queries: tokens times
# heads, the rows of a product that is batched over heads; head_tokens: positions that go through the output
# head.
Rows = Literal["tokens", "scores", "queries", "positions", "head_tokens"]


@dataclass(frozen=True)
class Gemm:
    """y[rows, outputs] = x[rows, inputs] W^T."""

    name: str
    outputs: Width
    inputs: Width
    rows: Rows = "tokens"
    kernels: int = 1


@dataclass(frozen=True)
class Stream:
    """A kernel that moves `passes` x rows x width elements; `norm` where it reduces over a row."""

    name: str
    width: Width
    passes: float
    norm: bool = False
    rows: Rows = "tokens"
    kernels: int = 1


@dataclass(frozen=True)
class Attention:
    """softmax(Q K^T) V over the sequences; which layers are local is a matter of the shape."""

    name: str = "attention"
    kernels: int = 1


Operator = Gemm | Stream | Attention


def layer_operators(
    architecture: Architecture,
    runtime: Runtime,
    attention: AttentionName = "flash",
    cast_bytes: float = 0.0,
) -> tuple[Operator, ...]:
    """The kernels of one layer. Operators that bear one name are reported as one part.

    `cast_bytes` is the attention's element size over that of the rest where q, k and v are cast, else 0.
    """
    around = "residuals and norms"
    residual = [*_streams(around, "hidden", runtime.residual_streams)]
    norm = [*_streams(around, "hidden", runtime.norm_streams, norm=True)]
    activation = runtime.gated_streams if architecture.gated_mlp else runtime.plain_streams
    return (
        *norm,
        Gemm("attention Wqkv", "qkv", "hidden"),
        *([Stream("rotary embedding", "rotated", 2)] if architecture.position == "rope" else []),
        *([Stream("attention casts", "qkv", 1 + cast_bytes)] if cast_bytes else []),
        *_attention(architecture, attention),
        *([Stream("attention casts", "query", 1 + cast_bytes)] if cast_bytes else []),
        Gemm("attention Wo", "hidden", "query"),
        *residual,
        *norm,
        Gemm("feed-forward Wi", "fused", "hidden"),
        *_streams("feed-forward activation", "intermediate", activation),
        Gemm("feed-forward Wo", "hidden", "intermediate"),
        *residual,
    )


def embedding_operators() -> tuple[Operator, ...]:
    """Before the layers: the gather of the embeddings and their norm."""
    return (Stream("embedding", "hidden", 2), Stream("embedding", "hidden", 2, norm=True))


def head_operators(architecture: Architecture, training: bool) -> tuple[Operator, ...]:
    """The masked-LM head: dense, activation and norm where it has them, then the decoder."""
    transform = (
        Gemm("head", "hidden", "hidden", rows="head_tokens"),
        Stream("head", "hidden", 2, rows="head_tokens"),
        Stream("head", "hidden", 2, norm=True, rows="head_tokens"),
    )
    return (*(transform if architecture.mlm_transform else ()), *decoder_operators(training))


def decoder_operators(training: bool) -> tuple[Operator, ...]:
    """From the hidden state to logits, and the loss in training."""
    logits = Gemm("head", "vocab", "hidden", rows="head_tokens")
    # Cross entropy reads the logits twice: for the log-sum-exp and for the probabilities.
    return (logits, Stream("head", "vocab", 2, rows="head_tokens")) if training else (logits,)


def in_feed_forward(operator: Operator) -> bool:
    """Whether the cost depends on the feed-forward's width, not on the heads."""
    match operator:
        case Gemm():
            return not {"intermediate", "fused"}.isdisjoint((operator.outputs, operator.inputs))
        case Stream():
            return operator.width in ("intermediate", "fused")
        case Attention():
            return False


def count_kernels(operators: Sequence[Operator]) -> int:
    """Launches of all `operators`, forward."""
    return sum(operator.kernels for operator in operators)


def _streams(name: str, width: Width, passes: Sequence[float], norm: bool = False) -> list[Stream]:
    return [Stream(name, width, count, norm) for count in passes]


def _attention(architecture: Architecture, attention: AttentionName) -> list[Operator]:
    if architecture.position == "relative":
        return _disentangled()
    return [Attention()] if attention == "flash" else _math()


# Passes over the score matrix: scale, mask, softmax.
MATH_PASSES = (2, 2, 2)


def _math() -> list[Operator]:
    """Attention that stores its scores, all of them in every layer, as transformers' eager code does."""
    name = "attention math"
    return [
        Stream(name, "qkv", 2),  # made contiguous for the batched products
        Gemm(name, "keys", "head_size", rows="queries"),
        *(Stream(name, "heads", passes, rows="scores") for passes in MATH_PASSES),
        Gemm(name, "head_size", "keys", rows="queries"),
        Stream(name, "query", 2),
    ]


# Passes over the score matrix, kernel by kernel as in transformers' modeling_deberta_v2: for content to
# position gather, scale and a sum with 0; for position to content gather, scale and a sum in place; the
# sum with the scores, the mask's copy and fill, softmax.
DISENTANGLED_PASSES = (2, 2, 2, 2, 2, 3, 3, 2, 2, 2)


def _disentangled() -> list[Operator]:
    """DeBERTa's attention: keys and queries of the relative table, one table for all layers, are projected
    with the content's own weights; all products are batched over heads and store their scores."""
    core, extra = "attention math", "disentangled attention"
    return [
        Stream(core, "qkv", 2),
        Stream(core, "key", 2),  # keys are scaled, not scores
        Gemm(core, "keys", "head_size", rows="queries"),
        *[Gemm(extra, "hidden", "hidden", rows="positions")] * 2,
        # Both projections are repeated for every sequence; as many rows as tokens at DeBERTa's length of 512.
        *[Stream(extra, "query", 1)] * 2,
        *[Gemm(extra, "positions", "head_size", rows="queries")] * 2,
        *(Stream(extra, "heads", passes, rows="scores") for passes in DISENTANGLED_PASSES),
        Gemm(core, "head_size", "keys", rows="queries"),
        Stream(core, "query", 2),
    ]
