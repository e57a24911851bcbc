"""How an encoder is wired, apart from its sizes: what decides parameters, FLOPs and padding.

Wirings follow the models' own code and configs (transformers 5.23 where that library holds the
model; MosaicBERT and NeoBERT from their authors' repositories).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hwsearch.errors import HwsearchError

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
Norm = Literal["layernorm", "rmsnorm"]
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Wiring shared by every size of one model family. Defaults are ModernBERT's.

    Attributes:
        gated_mlp: GLU feed-forward; the fused input matrix then has 2 * intermediate_size rows.
        initial_plain_layers: so many first layers have no gate, at the same intermediate_size.
        activation: of the feed-forward; gelu is the exact one (erf), gelu_tanh its approximation.
        head_activation: of the masked-LM head's dense layer.
        position: rope and alibi hold no parameters, learned is a table, relative is DeBERTa's
            disentangled attention with one table, normed, shared by all layers.
        position_rows: rows of the learned or relative table (RoBERTa: 514, DeBERTa-v3: 512); 0 is
            max_position_embeddings for learned positions.
        global_rope_theta, local_rope_theta: base of the rotation in global and in local layers.
        token_types: rows of the segment embedding, 0 where there is none.
        norm: of embeddings, layers, stack and head; `norm_eps` is added to its variance.
        norm_weights: vectors per norm: 2 for LayerNorm with bias, 1 without bias or for RMSNorm.
        embedding_norm: a norm follows the embeddings.
        first_attention_norm: ModernBERT drops the norm before the first attention.
        final_norm: pre-norm encoders need a norm after the stack, post-norm ones do not.
        mlm_transform: a dense layer and a norm stand between the encoder and the decoder.
        unpads: the public implementation computes real tokens only, padding costs nothing.

    Raises HwsearchError, which names the option (hwsearch.shape.options), for what no encoder can be.
    """

    name: str = "modernbert"
    gated_mlp: bool = True
    position: Literal["rope", "alibi", "learned", "relative"] = "rope"
    position_rows: int = 0
    token_types: int = 0
    norm_weights: int = 1
    embedding_norm: bool = True
    first_attention_norm: bool = False
    final_norm: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_in_bias: bool = False
    mlp_out_bias: bool = False
    mlm_transform: bool = True
    mlm_transform_bias: bool = False
    decoder_bias: bool = True
    tied_decoder: bool = True
    unpads: bool = True
    initial_plain_layers: int = 0
    activation: Activation = "gelu"
    head_activation: Activation = "gelu"
    norm: Norm = "layernorm"
    norm_eps: float = 1e-5
    global_rope_theta: float = GLOBAL_THETA
    local_rope_theta: float = LOCAL_THETA

    def __post_init__(self) -> None:
        if self.norm == "rmsnorm" and self.norm_weights > 1:
            raise HwsearchError("norm_bias: true has no meaning with norm rmsnorm")
        if not self.final_norm and not self.first_attention_norm:
            raise HwsearchError("first_attention_norm: false has no meaning with norm_order post")
        if not self.first_attention_norm and not self.embedding_norm:
            raise HwsearchError(
                "first_attention_norm: false needs embedding_norm true, which stands in for it"
            )
        if self.initial_plain_layers and not self.gated_mlp:
            raise HwsearchError("initial_plain_layers: with mlp plain every layer is plain already")
        thetas = (self.global_rope_theta, self.local_rope_theta)
        if self.position != "rope" and thetas != (GLOBAL_THETA, LOCAL_THETA):
            raise HwsearchError(f"rope_theta: position {self.position} rotates nothing")

    @property
    def norm_bias(self) -> bool:
        return self.norm_weights > 1

    @property
    def post_norm(self) -> bool:
        """Norms stand after each residual sum, not before each sublayer."""
        return not self.final_norm


# Fields that came after the first studies: a shape's hash holds them only where they differ from its
# family's, so that older hashes stay what they were.
LATER_FIELDS = (
    "initial_plain_layers",
    "activation",
    "head_activation",
    "norm",
    "norm_eps",
    "global_rope_theta",
    "local_rope_theta",
)

MODERNBERT = Architecture()

BERT = Architecture(
    name="bert",
    gated_mlp=False,
    position="learned",
    position_rows=512,
    token_types=2,
    norm_weights=2,
    first_attention_norm=True,
    final_norm=False,
    qkv_bias=True,
    attention_out_bias=True,
    mlp_in_bias=True,
    mlp_out_bias=True,
    mlm_transform_bias=True,
    unpads=False,
)
ROBERTA = replace(BERT, name="roberta", position_rows=514, token_types=1)
DEBERTA_V3 = replace(BERT, name="deberta-v3", position="relative", position_rows=512, token_types=0)
_GATED_POST_NORM = replace(BERT, gated_mlp=True, position="rope", position_rows=0, mlp_in_bias=False)
MOSAICBERT = replace(_GATED_POST_NORM, name="mosaicbert", position="alibi", unpads=True)
NOMIC_BERT = replace(
    _GATED_POST_NORM,
    name="nomic-bert",
    activation="silu",
    qkv_bias=False,
    attention_out_bias=False,
    mlp_out_bias=False,
)
GTE = replace(_GATED_POST_NORM, name="gte", token_types=0)
EUROBERT = Architecture(
    name="eurobert",
    activation="silu",
    norm="rmsnorm",
    embedding_norm=False,
    first_attention_norm=True,
    mlm_transform=False,
    decoder_bias=False,
    tied_decoder=False,
    unpads=False,
)
NEOBERT = replace(EUROBERT, name="neobert", decoder_bias=True)

ARCHITECTURES = {
    a.name: a for a in (MODERNBERT, BERT, ROBERTA, DEBERTA_V3, MOSAICBERT, NOMIC_BERT, GTE, NEOBERT, EUROBERT)
}
