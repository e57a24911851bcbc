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
from hwsearch.shape.architecture import Architecture

# query, key: heads x head size, which need not be the hidden size; qkv, rotated: query + 2 key, query + key;
# fused: both GLU branches where there are two; positions: rows of the relative table.
Width = Literal[
    "hidden", "query", "key", "qkv", "rotated", "intermediate", "fused", "heads", "positions", "vocab"
]
# tokens: padding included where it is computed; scores: query-key pairs of one head; head_tokens: positions
# that go through the output head.
Rows = Literal["tokens", "scores", "positions", "head_tokens"]


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


def layer_operators(architecture: Architecture, runtime: Runtime) -> tuple[Operator, ...]:
    """The kernels of one layer. Operators that bear one name are reported as one part."""
    around = "residuals and norms"
    residual = [*_streams(around, "hidden", runtime.residual_streams)]
    norm = [*_streams(around, "hidden", runtime.norm_streams, norm=True)]
    activation = runtime.gated_streams if architecture.gated_mlp else runtime.plain_streams
    return (
        *norm,
        Gemm("attention Wqkv", "qkv", "hidden"),
        *([Stream("rotary embedding", "rotated", 2)] if architecture.position == "rope" else []),
        Attention(),
        *(_disentangled() if architecture.position == "relative" else []),
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


# DeBERTa's eager attention moves the score matrix: two gathers and two additions of the positional
# terms, scale, mask, softmax and dropout, each a read and a write.
SCORE_MATRIX_KERNELS = 8


def _disentangled() -> list[Operator]:
    """What DeBERTa's relative positions add to a layer: projected tables, two products with them, and the
    score matrix moved through memory, on top of the attention that every model has. An estimate: no data
    that we know of has it."""
    name = "disentangled attention"
    return [
        *[Gemm(name, "hidden", "hidden", rows="positions")] * 2,
        *[Gemm(name, "positions", "hidden")] * 2,
        *[Stream(name, "heads", 2, rows="scores")] * SCORE_MATRIX_KERNELS,
    ]
