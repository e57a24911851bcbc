"""How an encoder is wired, apart from its sizes: what decides parameters, FLOPs and padding.

Wirings follow the models' own code and configs (transformers 5.23 where that library holds the
model; MosaicBERT and NeoBERT from their authors' repositories).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Wiring shared by every size of one model family. Defaults are ModernBERT's.

    Attributes:
        gated_mlp: GLU feed-forward; the fused input matrix then has 2 * intermediate_size rows.
        position: rope and alibi hold no parameters, learned is a table, relative is DeBERTa's
            disentangled attention with one table, normed, shared by all layers.
        position_rows: rows of the learned or relative table (RoBERTa: 514, DeBERTa-v3: 512).
        token_types: rows of the segment embedding, 0 where there is none.
        norm_weights: vectors per norm: 2 for LayerNorm with bias, 1 without bias or for RMSNorm.
        embedding_norm: a norm follows the embeddings.
        first_attention_norm: ModernBERT drops the norm before the first attention.
        final_norm: pre-norm encoders need a norm after the stack, post-norm ones do not.
        mlm_transform: a dense layer and a norm stand between the encoder and the decoder.
        unpads: the public implementation computes real tokens only, padding costs nothing.
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
    _GATED_POST_NORM, name="nomic-bert", qkv_bias=False, attention_out_bias=False, mlp_out_bias=False
)
GTE = replace(_GATED_POST_NORM, name="gte", token_types=0)
EUROBERT = Architecture(
    name="eurobert",
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
