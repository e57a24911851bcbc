"""ModernBERT on packed tokens: no padding from the embedding to the logits.

Modules bear the names of transformers' ModernBertForMaskedLM, so that weights load both ways.
Shape suffixes: T packed tokens, P positions to predict, C hidden size, H heads, D head size,
V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwsearch.errors import HwsearchError
from hwsearch.kernels import attention_schedule, varlen_attention_qkvpacked
from hwsearch.shape import EncoderShape

NORM_EPS = 1e-5
GLOBAL_THETA = 160_000.0
LOCAL_THETA = 10_000.0
INIT_STD = 0.02
INIT_CUTOFF = 2.0  # standard deviations

Rope = tuple[Tensor, Tensor]


class MaskedLanguageModel(nn.Module):
    """Encoder, prediction head and a decoder tied to the token embedding.

    Weights come from torch's global generator (Megatron's scheme, as FlexBERT's `full_megatron`):
    normal with std 0.02 cut at 2 std; 0.02 / sqrt(2 L) for the matrices that write to the residual
    stream. transformers draws head.dense from the narrower of the two instead.

    Raises HwsearchError for a wiring other than ModernBERT's.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        check_wiring(shape)
        self.shape = shape
        self.model = Backbone(shape)
        self.head = PredictionHead(shape.hidden_size)
        self.decoder = nn.Linear(shape.hidden_size, shape.vocab_size)
        self.decoder.weight = self.model.embeddings.tok_embeddings.weight
        self._initialise()

    def forward(
        self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, positions_P: Tensor | None = None
    ) -> Tensor:
        """Logits [P, V] at `positions_P` of the packed axis, or [T, V] at every token.

        Args:
            tokens_T: int64 ids of all sequences, one after the other.
            cu_seqlens: int32 or int64 [sequences + 1], offsets of the sequences, from 0 to T.
            max_seqlen: at least the longest sequence.
            positions_P: int64 places to predict; the rest costs no vocabulary-sized product.
        """
        head_PC = self.head_states(tokens_T, cu_seqlens, max_seqlen, positions_P)
        logits: Tensor = self.decoder(head_PC)
        return logits

    def head_states(
        self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, positions_P: Tensor | None = None
    ) -> Tensor:
        """What the decoder reads, [P, C] or [T, C]; arguments as in `forward`."""
        x_TC = self.model(tokens_T, cu_seqlens, max_seqlen)
        if positions_P is not None:
            # Indexing by [] would sort the positions in the backward pass.
            x_TC = x_TC.index_select(0, positions_P)
        out_PC: Tensor = self.head(x_TC)
        return out_PC

    @torch.no_grad()
    def _initialise(self) -> None:
        residual_std = INIT_STD / math.sqrt(2 * self.shape.num_hidden_layers)
        for name, weight in self.named_parameters():
            if name == "decoder.bias":
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                std = residual_std if name.endswith("Wo.weight") else INIT_STD
                nn.init.trunc_normal_(weight, std=std, a=-INIT_CUTOFF * std, b=INIT_CUTOFF * std)


class Backbone(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        self.embeddings = Embeddings(shape)
        every = shape.global_attn_every_n_layers
        self.is_global = [index % every == 0 for index in range(shape.num_hidden_layers)]
        self.layers = nn.ModuleList(
            Layer(shape, is_first=index == 0, is_global=is_global)
            for index, is_global in enumerate(self.is_global)
        )
        self.final_norm = _norm(shape.hidden_size)

    def forward(self, tokens_T: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        global_rope = rope_tables(max_seqlen, self.head_size, GLOBAL_THETA, tokens_T.device)
        local_rope = rope_tables(max_seqlen, self.head_size, LOCAL_THETA, tokens_T.device)
        # The Triton kernels' work list, one for all layers; nothing else reads it.
        schedule = None
        if tokens_T.is_cuda:
            schedule = attention_schedule(cu_seqlens, tokens_T.shape[0], max_seqlen)
        x_TC: Tensor = self.embeddings(tokens_T)
        for layer, is_global in zip(self.layers, self.is_global, strict=True):
            rope = global_rope if is_global else local_rope
            x_TC = layer(x_TC, cu_seqlens, max_seqlen, rope, schedule)
        normed: Tensor = self.final_norm(x_TC)
        return normed


class Embeddings(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.norm = _norm(shape.hidden_size)

    def forward(self, tokens_T: Tensor) -> Tensor:
        x_TC: Tensor = self.norm(self.tok_embeddings(tokens_T))
        return x_TC


class Layer(nn.Module):
    def __init__(self, shape: EncoderShape, *, is_first: bool, is_global: bool) -> None:
        super().__init__()
        # The embedding's norm already stands in front of the first layer.
        self.attn_norm = nn.Identity() if is_first else _norm(shape.hidden_size)
        self.attn = Attention(shape, is_global=is_global)
        self.mlp_norm = _norm(shape.hidden_size)
        self.mlp = GatedMLP(shape)

    def forward(
        self, x_TC: Tensor, cu_seqlens: Tensor, max_seqlen: int, rope: Rope, schedule: Tensor | None
    ) -> Tensor:
        x_TC = x_TC + self.attn(self.attn_norm(x_TC), cu_seqlens, max_seqlen, rope, schedule)
        out_TC: Tensor = x_TC + self.mlp(self.mlp_norm(x_TC))
        return out_TC


class Attention(nn.Module):
    def __init__(self, shape: EncoderShape, *, is_global: bool) -> None:
        super().__init__()
        self.num_heads = shape.num_attention_heads
        self.window = None if is_global else shape.window
        self.Wqkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=False)
        self.Wo = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(
        self, x_TC: Tensor, cu_seqlens: Tensor, max_seqlen: int, rope: Rope, schedule: Tensor | None
    ) -> Tensor:
        # Rows of Wqkv: all heads of q, then of k, then of v.
        qkv_T3HD = self.Wqkv(x_TC).unflatten(-1, (3, self.num_heads, -1))
        o_THD = varlen_attention_qkvpacked(
            qkv_T3HD, cu_seqlens, max_seqlen, window=self.window, rope=rope, schedule=schedule
        )
        out_TC: Tensor = self.Wo(o_THD.flatten(1))
        return out_TC


class GatedMLP(nn.Module):
    """GeGLU with the exact (erf) GELU on the first half of Wi's rows."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.Wi = nn.Linear(shape.hidden_size, 2 * shape.intermediate_size, bias=False)
        self.Wo = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x_TC: Tensor) -> Tensor:
        activated, gate = self.Wi(x_TC).chunk(2, dim=-1)
        out_TC: Tensor = self.Wo(F.gelu(activated) * gate)
        return out_TC


class PredictionHead(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = _norm(hidden_size)

    def forward(self, x_PC: Tensor) -> Tensor:
        out_PC: Tensor = self.norm(F.gelu(self.dense(x_PC)))
        return out_PC


def rope_tables(length: int, head_size: int, theta: float, device: torch.device) -> Rope:
    """(cos, sin) of position * theta^(-2d / head_size), float32, each [length, head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), 1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def _norm(size: int) -> nn.LayerNorm:
    return nn.LayerNorm(size, eps=NORM_EPS, bias=False)


def check_wiring(shape: EncoderShape) -> None:
    """Raises HwsearchError for a shape that this module cannot build."""
    if shape.architecture.name != "modernbert":
        raise HwsearchError(
            f"{shape}: architecture: {shape.architecture.name} cannot be built; accepted: modernbert"
        )
    if shape.key_value_heads != shape.num_attention_heads:
        raise HwsearchError(
            f"{shape}: num_key_value_heads: {shape.key_value_heads}; ModernBERT has one per query head,"
            f" {shape.num_attention_heads}"
        )
    if shape.head_size % 2:
        raise HwsearchError(
            f"{shape}: head size {shape.head_size} (hidden_size / num_attention_heads) is odd;"
            " rotary embedding turns it by halves"
        )
