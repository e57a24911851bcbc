"""A model file for FlexBERT, the authors' Composer trainer (AnswerDotAI/ModernBERT, main).

Keys are those of its yamls/modernbert/; options take FlexBertConfig's names.
"""

from __future__ import annotations

from typing import Any

import yaml

from hwsearch.errors import HwsearchError
from hwsearch.export.wiring import check_modernbert
from hwsearch.shape import EncoderShape
from hwsearch.shape.architecture import Architecture
from hwsearch.shape.parameters import masked_lm_parameters

MODERNBERT_VOCAB = 50368
HEADER = """\
# FlexBERT model {shape}, {parameters:,} parameters with the masked-LM head.
# Merge it into a training file of AnswerDotAI/ModernBERT, which brings data, optimizer and schedule.
"""
NO_TOKENIZER = "# Fill in tokenizer_name: a tokenizer of at most {vocab:,} tokens.\n"


def flexbert_text(shape: EncoderShape) -> str:
    """YAML with `max_seq_len`, `tokenizer_name` and `model`.

    Raises HwsearchError where FlexBERT would refuse the shape or silently build another one:
    the last layer must be global, (L - 1) % n == 0, and the vocabulary a multiple of 8.
    """
    check_modernbert(shape, "flexbert")
    _check_flexbert(shape)
    known = shape.vocab_size == MODERNBERT_VOCAB
    header = HEADER.format(shape=shape, parameters=masked_lm_parameters(shape))
    if not known:
        header += NO_TOKENIZER.format(vocab=shape.vocab_size)
    document = {
        "max_seq_len": shape.max_position_embeddings,
        # OmegaConf stops at "???": a tokenizer larger than the embedding would resize it unasked.
        "tokenizer_name": "answerdotai/ModernBERT-base" if known else "???",
        "model": {
            "name": "flex_bert",
            "pretrained_model_name": "bert-base-uncased",
            "tokenizer_name": "${tokenizer_name}",
            "disable_train_metrics": True,
            "model_config": _model_config(shape),
        },
    }
    return header + yaml.safe_dump(document, sort_keys=False)


def _check_flexbert(shape: EncoderShape) -> None:
    layers, every = shape.num_hidden_layers, shape.global_attn_every_n_layers
    if (layers - 1) % every:
        below = layers - (layers - 1) % every
        raise HwsearchError(
            f"{shape}: global_attn_every_n_layers: FlexBERT wants the last layer global,"
            f" (num_hidden_layers - 1) % {every} == 0; nearest depths: {below} and {below + every}"
        )
    if shape.vocab_size % 8:
        raise HwsearchError(
            f"{shape}: vocab_size: FlexBERT would round {shape.vocab_size} up to a multiple of 8"
        )


def _model_config(shape: EncoderShape) -> dict[str, Any]:
    a = shape.architecture
    learned = a.position == "learned"
    if shape.global_attn_every_n_layers == 1:
        # FlexBERT accepts these three only together.
        locality: dict[str, Any] = {
            "local_attn_rotary_emb_base": -1,
            "sliding_window": -1,
            "global_attn_every_n_layers": -1,
        }
    else:
        locality = {
            "local_attn_rotary_emb_base": a.local_rope_theta,
            "sliding_window": shape.local_attention,
            "global_attn_every_n_layers": shape.global_attn_every_n_layers,
        }
    return {
        "vocab_size": shape.vocab_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_attention_heads,
        "max_position_embeddings": shape.max_position_embeddings,
        "init_method": "full_megatron",
        "padding": "unpadded",
        "embedding_layer": "absolute_pos" if learned else "sans_pos",
        "bert_layer": "postnorm" if a.post_norm else "prenorm",
        "attention_layer": "base" if learned else "rope",
        "mlp_layer": "glu" if a.gated_mlp else "mlp",
        **_initial_layers(a),
        "normalization": a.norm,
        "norm_kwargs": {"eps": a.norm_eps} | ({"bias": a.norm_bias} if a.norm == "layernorm" else {}),
        "embed_norm": a.embedding_norm,
        "skip_first_prenorm": not a.first_attention_norm,
        "final_norm": a.final_norm,
        "hidden_act": a.activation,
        "head_pred_act": a.head_activation,
        "head_pred_norm": True,
        "head_pred_bias": a.mlm_transform_bias,
        "activation_function": a.activation,
        "attn_qkv_bias": a.qkv_bias,
        "attn_out_bias": a.attention_out_bias,
        "mlp_in_bias": a.mlp_in_bias,
        "mlp_out_bias": a.mlp_out_bias,
        "decoder_bias": a.decoder_bias,
        **({} if a.tied_decoder else {"tie_word_embeddings": False}),
        "attention_probs_dropout_prob": 0.0,
        "attn_out_dropout_prob": 0.1,
        "embed_dropout_prob": 0.0,
        "mlp_dropout_prob": 0.0,
        "rotary_emb_dim": None,
        "rotary_emb_base": a.global_rope_theta,
        "rotary_emb_scale_base": None,
        "rotary_emb_interleaved": False,
        **locality,
        "local_attn_rotary_emb_dim": None,
        "loss_function": "fa_cross_entropy",
        "loss_kwargs": {"reduction": "mean"},
        "allow_embedding_resizing": True,
        # FlexBERT adds learned positions before it unpads.
        "unpad_embeddings": not learned,
        "compile_model": True,
        "masked_prediction": True,
    }


def _initial_layers(architecture: Architecture) -> dict[str, Any]:
    if not architecture.initial_plain_layers:
        return {}
    return {"initial_mlp_layer": "mlp", "num_initial_layers": architecture.initial_plain_layers}
