"""ModernBERT and its options on packed tokens: no padding from the embedding to the loss.

Modules bear the names of transformers' ModernBertForMaskedLM, so that weights load both ways.
Shape suffixes: T packed tokens, P positions to predict, C hidden size, H heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hwsearch.kernels import attention_schedule, varlen_attention_qkvpacked
from hwsearch.kernels.gated import gated_gelu
from hwsearch.kernels.loss import linear_cross_entropy
from hwsearch.model.initialisation import initialise
from hwsearch.shape import EncoderShape
from hwsearch.shape.buildable import check_wiring
from hwsearch.shape.options import with_options

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}

Rope = tuple[Tensor, Tensor]


class MaskedLanguageModel(nn.Module):
    """Encoder, prediction head and a decoder, tied to the token embedding unless the shape says otherwise.

    Weights are drawn by `hwsearch.model.initialisation` from torch's global generator.

    Attributes:
        recompute: training keeps each layer's input alone and runs the layer again in the backward pass.

    Raises HwsearchError for a wiring that is not ModernBERT's or one of its options.
    """

    def __init__(self, shape: EncoderShape, *, recompute: bool = False) -> None:
        super().__init__()
        check_wiring(shape)
        self.shape = shape
        self.model = Backbone(shape)
        self.head = PredictionHead(shape)
        a = shape.architecture
        self.decoder = nn.Linear(shape.hidden_size, shape.vocab_size, bias=a.decoder_bias)
        if a.tied_decoder:
            self.decoder.weight = self.model.embeddings.tok_embeddings.weight
        self.recompute = recompute
        initialise(self, shape)

    @property
    def recompute(self) -> bool:
        return self.model.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.model.recompute = value

    def set_rope_theta(self, global_theta: float, local_theta: float | None = None) -> None:
        """Change the rotation's bases, which hold no weights; `shape`, and so an export, says the same.

        A compiled model is compiled once more. Raises HwsearchError for a base outside 1 to 1e12, and for
        a model without rotation.
        """
        a = self.shape.architecture
        if local_theta is None:
            local_theta = a.local_rope_theta
        changed = with_options(a, global_rope_theta=global_theta, local_rope_theta=local_theta)
        self.shape = replace(self.shape, architecture=changed)
        self.model.global_theta, self.model.local_theta = changed.global_rope_theta, changed.local_rope_theta

    def forward(
        self,
        tokens_T: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        positions_P: Tensor | None = None,
        targets_P: Tensor | None = None,
    ) -> Tensor:
        """Logits [P, V] at `positions_P` of the packed axis, or [T, V] at every token; or their loss.

        Args:
            tokens_T: int64 ids of all sequences, one after the other.
            cu_seqlens: int32 or int64 [sequences + 1], offsets of the sequences, from 0 to T.
            max_seqlen: at least the longest sequence; one number for all batches compiles once.
            positions_P: int64 places to predict; the rest costs no vocabulary-sized product.
            targets_P: int64 ids that belong there, or -100. With them the result is the cross-entropy in
                nats, summed over the targets, a float32 scalar; no [P, V] logits are kept.
        """
        head_PC = self.head_states(tokens_T, cu_seqlens, max_seqlen, positions_P)
        decoder = self.decoder
        if targets_P is not None:
            total: Tensor = linear_cross_entropy(
                head_PC, decoder.weight, targets_P, decoder.bias, reduction="sum"
            )
            return total
        logits: Tensor = decoder(head_PC)
        return logits

    def head_states(
        self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, positions_P: Tensor | None = None
    ) -> Tensor:
        """What the decoder reads, [P, C] or [T, C]; arguments as in `forward`."""
        out_PC: Tensor = self.head(self.model(tokens_T, cu_seqlens, max_seqlen, positions_P))
        return out_PC


class Backbone(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        a = shape.architecture
        self.recompute = False
        self.head_size = shape.head_size
        self.rotates = a.position == "rope"
        self.global_theta, self.local_theta = a.global_rope_theta, a.local_rope_theta
        self.embeddings = Embeddings(shape)
        every = shape.global_attn_every_n_layers
        self.is_global = [index % every == 0 for index in range(shape.num_hidden_layers)]
        self.layers = nn.ModuleList(
            Layer(shape, index, is_global=is_global) for index, is_global in enumerate(self.is_global)
        )
        self.final_norm = nn.Identity() if a.post_norm else norm_of(shape)

    def forward(
        self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, positions_P: Tensor | None = None
    ) -> Tensor:
        global_rope = local_rope = None
        if self.rotates:
            global_rope = rope_tables(max_seqlen, self.head_size, self.global_theta, tokens_T.device)
            local_rope = rope_tables(max_seqlen, self.head_size, self.local_theta, tokens_T.device)
        # The Triton kernels' work list, one for all layers; nothing else reads it.
        schedule = None
        if tokens_T.is_cuda:
            schedule = attention_schedule(cu_seqlens, tokens_T.shape[0], max_seqlen)
        recompute = self.recompute and torch.is_grad_enabled()
        x_TC: Tensor = self.embeddings(tokens_T, cu_seqlens)
        last = len(self.layers) - 1
        for index, (layer, is_global) in enumerate(zip(self.layers, self.is_global, strict=True)):
            rope = global_rope if is_global else local_rope
            # Nobody reads the other tokens after the last attention.
            wanted_P = positions_P if index == last else None
            arguments = (x_TC, cu_seqlens, max_seqlen, rope, schedule, wanted_P)
            x_TC = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
        normed: Tensor = self.final_norm(x_TC)
        return normed


class Embeddings(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        a = shape.architecture
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = None
        if a.position == "learned":
            self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.norm = norm_of(shape) if a.embedding_norm else nn.Identity()

    def forward(self, tokens_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        x_TC = self.tok_embeddings(tokens_T)
        if self.position_embeddings is not None:
            x_TC = x_TC + self.position_embeddings(positions_in_sequences(tokens_T.shape[0], cu_seqlens))
        normed_TC: Tensor = self.norm(x_TC)
        return normed_TC


class Layer(nn.Module):
    def __init__(self, shape: EncoderShape, index: int, *, is_global: bool) -> None:
        super().__init__()
        a = shape.architecture
        self.post_norm = a.post_norm
        # The embedding's norm may already stand in front of the first layer.
        bare = index == 0 and not a.first_attention_norm
        self.attn_norm = nn.Identity() if bare else norm_of(shape)
        self.attn = Attention(shape, is_global=is_global)
        self.mlp_norm = norm_of(shape)
        self.mlp = FeedForward(shape, gated=a.gated_mlp and index >= a.initial_plain_layers)

    def forward(
        self,
        x_TC: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        rope: Rope | None,
        schedule: Tensor | None,
        positions_P: Tensor | None,
    ) -> Tensor:
        """[T, C]; with positions those rows of it alone, [P, C]."""
        sequences = (cu_seqlens, max_seqlen, rope, schedule, positions_P)
        # Indexing by [] would sort the positions in the backward pass.
        kept_TC = x_TC if positions_P is None else x_TC.index_select(0, positions_P)
        out_TC: Tensor
        if self.post_norm:
            x_TC = self.attn_norm(kept_TC + self.attn(x_TC, *sequences))
            out_TC = self.mlp_norm(x_TC + self.mlp(x_TC))
        else:
            x_TC = kept_TC + self.attn(self.attn_norm(x_TC), *sequences)
            out_TC = x_TC + self.mlp(self.mlp_norm(x_TC))
        return out_TC


class Attention(nn.Module):
    """
    Attributes:
        backend: forces one of hwsearch.kernels.dispatch.BACKENDS; None takes what dispatch chooses.
    """

    def __init__(self, shape: EncoderShape, *, is_global: bool) -> None:
        super().__init__()
        a, h = shape.architecture, shape.hidden_size
        self.num_heads = shape.num_attention_heads
        self.window = None if is_global else shape.window
        self.backend: str | None = None
        self.Wqkv = nn.Linear(h, 3 * h, bias=a.qkv_bias)
        self.Wo = nn.Linear(h, h, bias=a.attention_out_bias)

    def forward(
        self,
        x_TC: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        rope: Rope | None,
        schedule: Tensor | None,
        positions_P: Tensor | None,
    ) -> Tensor:
        # Rows of Wqkv: all heads of q, then of k, then of v.
        qkv_T3HD = self.Wqkv(x_TC).unflatten(-1, (3, self.num_heads, -1))
        o_THD = varlen_attention_qkvpacked(
            qkv_T3HD,
            cu_seqlens,
            max_seqlen,
            window=self.window,
            rope=rope,
            backend=self.backend,
            schedule=schedule,
        )
        o_TC = o_THD.flatten(1)
        if positions_P is not None:
            o_TC = o_TC.index_select(0, positions_P)
        out_TC: Tensor = self.Wo(o_TC)
        return out_TC


class FeedForward(nn.Module):
    """With a gate (GLU), the activation is on the first half of Wi's rows.

    Attributes:
        fused_gate: activation and gate go to hwsearch.kernels.gated, which has the exact GELU.
    """

    def __init__(self, shape: EncoderShape, *, gated: bool) -> None:
        super().__init__()
        a, h, i = shape.architecture, shape.hidden_size, shape.intermediate_size
        self.gated = gated
        self.activation = ACTIVATIONS[a.activation]
        self.fused_gate = a.activation == "gelu"
        self.Wi = nn.Linear(h, (1 + gated) * i, bias=a.mlp_in_bias)
        self.Wo = nn.Linear(i, h, bias=a.mlp_out_bias)

    def forward(self, x_TC: Tensor) -> Tensor:
        inner = self.Wi(x_TC)
        inner = self.gate(inner) if self.gated else self.activation(inner)
        out_TC: Tensor = self.Wo(inner)
        return out_TC

    def gate(self, inner: Tensor) -> Tensor:
        out: Tensor
        if self.fused_gate:
            out = gated_gelu(inner)
        else:
            activated, gate = inner.chunk(2, dim=-1)
            out = self.activation(activated) * gate
        return out


class PredictionHead(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        a, h = shape.architecture, shape.hidden_size
        self.activation = ACTIVATIONS[a.head_activation]
        self.dense = nn.Linear(h, h, bias=a.mlm_transform_bias)
        self.norm = norm_of(shape)

    def forward(self, x_PC: Tensor) -> Tensor:
        out_PC: Tensor = self.norm(self.activation(self.dense(x_PC)))
        return out_PC


class RMSNorm(nn.RMSNorm):
    """In its weight's precision, as a GPU's autocast computes a LayerNorm; torch's own stays in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def norm_of(shape: EncoderShape) -> nn.Module:
    a = shape.architecture
    if a.norm == "rmsnorm":
        return RMSNorm(shape.hidden_size, eps=a.norm_eps)
    return nn.LayerNorm(shape.hidden_size, eps=a.norm_eps, bias=a.norm_bias)


def rope_tables(length: int, head_size: int, theta: float, device: torch.device) -> Rope:
    """(cos, sin) of position * theta^(-2d / head_size), float32, each [length, head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), 1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def positions_in_sequences(tokens: int, cu_seqlens: Tensor) -> Tensor:
    """Place of every packed token in its own sequence, [T]."""
    place_T = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    sequence_T = torch.searchsorted(cu_seqlens, place_T, right=True) - 1
    return place_T - cu_seqlens[sequence_T]
