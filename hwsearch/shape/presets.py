"""Known encoders by name. Sizes are those of their published config.json files."""

from __future__ import annotations

from hwsearch.shape.architecture import (
    BERT,
    DEBERTA_V3,
    EUROBERT,
    GTE,
    MODERNBERT,
    MOSAICBERT,
    NEOBERT,
    NOMIC_BERT,
    ROBERTA,
    Architecture,
)
from hwsearch.shape.encoder_shape import EncoderShape


def _preset(
    architecture: Architecture,
    layers: int,
    hidden: int,
    heads: int,
    ffn: int,
    vocab: int,
    positions: int,
    *,
    kv_heads: int | None = None,
    global_every: int = 1,
) -> EncoderShape:
    return EncoderShape(
        architecture=architecture,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=ffn,
        vocab_size=vocab,
        max_position_embeddings=positions,
        num_key_value_heads=kv_heads,
        global_attn_every_n_layers=global_every,
    )


PRESETS: dict[str, EncoderShape] = {
    "modernbert-base": _preset(MODERNBERT, 22, 768, 12, 1152, 50368, 8192, global_every=3),
    "modernbert-large": _preset(MODERNBERT, 28, 1024, 16, 2624, 50368, 8192, global_every=3),
    "bert-base": _preset(BERT, 12, 768, 12, 3072, 30522, 512),
    "bert-large": _preset(BERT, 24, 1024, 16, 4096, 30522, 512),
    "roberta-base": _preset(ROBERTA, 12, 768, 12, 3072, 50265, 512),
    "roberta-large": _preset(ROBERTA, 24, 1024, 16, 4096, 50265, 512),
    "deberta-v3-base": _preset(DEBERTA_V3, 12, 768, 12, 3072, 128100, 512),
    "deberta-v3-large": _preset(DEBERTA_V3, 24, 1024, 16, 4096, 128100, 512),
    "mosaicbert-base": _preset(MOSAICBERT, 12, 768, 12, 3072, 30528, 128),
    "nomic-bert": _preset(NOMIC_BERT, 12, 768, 12, 3072, 30528, 2048),
    "gte-en-mlm-base": _preset(GTE, 12, 768, 12, 3072, 30528, 8192),
    "gte-en-mlm-large": _preset(GTE, 24, 1024, 16, 4096, 30528, 8192),
    # NeoBERT's config says 3072; its SwiGLU keeps two thirds of it, rounded to a multiple of 8.
    "neobert": _preset(NEOBERT, 28, 768, 12, 2048, 30522, 4096),
    "eurobert-210m": _preset(EUROBERT, 12, 768, 12, 3072, 128256, 8192),
    "eurobert-610m": _preset(EUROBERT, 26, 1152, 18, 4096, 128256, 8192, kv_heads=6),
}
