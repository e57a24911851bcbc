"""What an encoder runs, as plain data: its kernels in order, with symbolic sizes.

This is the only description of a layer: `hwsearch.cost.encoder` prices it for tables of shapes,
`hwsearch.cost.models` for the rows of a model table, and the launches that a runtime pays for are counted
from it. To say that a runtime runs other kernels, change the lists here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hwsearch.cost.runtime import Kernels
from hwsearch.shape.architecture import Architecture

# query, key: heads x head size, which need not be the hidden size; qkv, rotated: query + 2 key, query + key;
# fused: both GLU branches where there are two; positions: rows of the relative table.
Width = Literal[
    "hidden", "query", "key", "qkv", "rotated", "intermediate", "fused", "heads", "positions", "vocab"
]
LinearInputs = Literal["hidden", "query", "intermediate"]
# tokens: padding included where it is computed; scores: query-key pairs of one head; head_tokens: positions
# that go through the output head; the rest are widths, for kernels that pass over a weight matrix.
Rows = Literal["tokens", "scores", "positions", "head_tokens", "hidden", "query", "intermediate"]


ROTARY = "rotary embedding"
# Encoders that unpad bring a kernel that turns queries and keys in place.
ROTARY_PASSES = 2


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
    """softmax(Q K^T) V over the sequences; which layers are local is a matter of the shape.

    `kernel` is one of hwsearch.gpu.attention_kernels.KERNELS, None the best that the GPU runs.
    `rotation` is that of queries and keys, where it is the kernel's own work.
    """

    name: str = "attention"
    kernel: str | None = None
    rotation: Stream | None = None
    kernels: int = 1


@dataclass(frozen=True)
class Products:
    """Q K^T and P V as batched products of every head, where attention is not one kernel.

    `with_positions`: instead the products of queries and of keys with every row of the relative table.
    """

    name: str = "attention"
    with_positions: bool = False
    kernels: int = 2


Operator = Gemm | Stream | Attention | Products


def layer_operators(
    architecture: Architecture, kernels: Kernels, cast_bytes: float = 0.0
) -> tuple[Operator, ...]:
    """The kernels of one layer. Operators that bear one name are reported as one part.

    `cast_bytes` is the attention's element size over that of the rest where q, k and v are cast, else 0.
    """
    around = "residuals and norms"
    residual = _streams(around, "hidden", kernels.residual)
    passes = kernels.pre_norm if architecture.final_norm else kernels.norm
    # A kernel that joins norm and residual add is not PyTorch's, whose rows are slow to begin.
    norm = [Stream(around, "hidden", passes, norm=bool(kernels.residual))]
    norm += _streams(around, "hidden", kernels.cast)
    activation = kernels.gated if architecture.gated_mlp else kernels.plain
    return (
        *norm,
        *_linear("attention Wqkv", "qkv", "hidden", kernels),
        *(_rotary(architecture, kernels) if architecture.position == "rope" else []),
        *([Stream("attention casts", "qkv", 1 + cast_bytes)] if cast_bytes else []),
        *_attention(architecture, kernels),
        *([Stream("attention casts", "query", 1 + cast_bytes)] if cast_bytes else []),
        *_linear("attention Wo", "hidden", "query", kernels),
        *residual,
        *norm,
        *_linear("feed-forward Wi", "fused", "hidden", kernels),
        *_streams("feed-forward activation", "intermediate", activation),
        *_linear("feed-forward Wo", "hidden", "intermediate", kernels),
        *residual,
    )


def rotated_within(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """The same layer with attention kernels that rotate queries and keys, as hwsearch's own do."""
    rotation = next(o for o in operators if isinstance(o, Stream) and o.name == ROTARY)
    others = [operator for operator in operators if operator is not rotation]
    return tuple(replace(o, rotation=rotation) if isinstance(o, Attention) else o for o in others)


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
            return not {"intermediate", "fused"}.isdisjoint((operator.width, operator.rows))
        case Attention() | Products():
            return False


def count_kernels(operators: Sequence[Operator]) -> int:
    """Launches of all `operators`, forward."""
    return sum(operator.kernels for operator in operators)


def _streams(name: str, width: Width, passes: Sequence[float]) -> list[Stream]:
    return [Stream(name, width, count) for count in passes]


# A cast of a weight matrix reads 4 bytes and writes 2: three elements of 2 bytes.
CAST_PASSES = 3


def _linear(name: str, outputs: Width, inputs: LinearInputs, kernels: Kernels) -> list[Operator]:
    """A GEMM, and the cast of its weights where the runtime makes one."""
    cast = [Stream(name, outputs, CAST_PASSES, rows=inputs)] if kernels.casts_weights else []
    return [*cast, Gemm(name, outputs, inputs)]


def _rotary(architecture: Architecture, kernels: Kernels) -> list[Stream]:
    """The rotation of queries and keys."""
    return _streams(ROTARY, "rotated", (ROTARY_PASSES,) if architecture.unpads else kernels.rotary)


def _unfused_attention(kernels: Kernels) -> list[Operator]:
    """Two products, what passes over the scores between them, and the copies of their operands."""
    scores = [Stream("attention", "heads", count, rows="scores") for count in kernels.scores]
    return [*_streams("attention", "query", kernels.copies), Products(), *scores]


def _attention(architecture: Architecture, kernels: Kernels) -> list[Operator]:
    if architecture.position == "relative":
        return [*_unfused_attention(replace(kernels, scores=())), *_disentangled()]
    return (
        [Attention(kernel=kernels.attention_kernel)]
        if kernels.fused_attention
        else _unfused_attention(kernels)
    )


# Passes over the score matrix, kernel by kernel as in transformers' modeling_deberta_v2: for content to
# position gather, scale and a sum with 0; for position to content gather, scale and a sum in place; the
# sum with the scores, the mask's copy and fill, softmax.
DISENTANGLED_PASSES = (2, 2, 2, 2, 2, 3, 3, 2, 2, 2)


def _disentangled() -> list[Operator]:
    """What DeBERTa's relative positions make of a layer, in any runtime: the one table is projected
    with the content's own weights and repeated for every sequence, and its products with queries and keys are
    stored as the scores are. All of it moves through memory."""
    name = "disentangled attention"
    return [
        Stream(name, "key", 2),  # keys are scaled, not scores
        *[Gemm(name, "hidden", "hidden", rows="positions")] * 2,
        # As many rows as tokens at DeBERTa's length of 512.
        *[Stream(name, "query", 1)] * 2,
        Products(name, with_positions=True),
        *(Stream(name, "heads", passes, rows="scores") for passes in DISENTANGLED_PASSES),
    ]
