"""A transformers config.json (version 5 layout) for ModernBertForMaskedLM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.export.wiring import check_modernbert
from hwsearch.shape import EncoderShape
from hwsearch.shape.options import options_of

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu", "relu": "relu"}
# Options whose value transformers' ModernBERT does not leave open.
FIXED_OPTIONS = (
    "mlp",
    "norm",
    "norm_order",
    "embedding_norm",
    "first_attention_norm",
    "position",
    "initial_plain_layers",
)


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Token ids that a config.json names. ModernBERT has no others: BOS is CLS, EOS is SEP."""

    cls: int
    sep: int
    pad: int


# ModernBERT's own tokenizer; and the order in which `hwsearch train` numbers its special tokens.
MODERNBERT_IDS = SpecialIds(cls=50281, sep=50282, pad=50283)
TRAINED_IDS = SpecialIds(cls=1, sep=2, pad=3)


def default_ids(vocab_size: int) -> SpecialIds:
    """ModernBERT's ids where the vocabulary holds them, else those of a tokenizer trained here."""
    ids = MODERNBERT_IDS if vocab_size > MODERNBERT_IDS.pad else TRAINED_IDS
    if vocab_size <= ids.pad:
        raise HwsearchError(
            f"vocab_size: {vocab_size} has no room for the special tokens; accepted: over {ids.pad}"
        )
    return ids


def hf_config(shape: EncoderShape, ids: SpecialIds | None = None) -> dict[str, Any]:
    """The keys of ModernBertConfig, complete, so that no library default decides anything.

    Raises HwsearchError for a wiring that ModernBertConfig cannot express.
    """
    check_modernbert(shape, "hf")
    _check_options(shape)
    a = shape.architecture
    ids = ids or default_ids(shape.vocab_size)
    every = shape.global_attn_every_n_layers
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        "dtype": "float32",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "max_position_embeddings": shape.max_position_embeddings,
        "layer_types": [
            "sliding_attention" if i % every else "full_attention" for i in range(shape.num_hidden_layers)
        ],
        "local_attention": shape.local_attention,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": a.global_rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": a.local_rope_theta},
        },
        "hidden_activation": ACTIVATIONS[a.activation],
        "norm_eps": a.norm_eps,
        "norm_bias": a.norm_bias,
        "attention_bias": a.qkv_bias,
        "mlp_bias": a.mlp_in_bias,
        "decoder_bias": a.decoder_bias,
        "tie_word_embeddings": a.tied_decoder,
        # The masked-LM head takes these two from the classifier's.
        "classifier_activation": ACTIVATIONS[a.head_activation],
        "classifier_bias": a.mlm_transform_bias,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "initializer_range": 0.02,
        "initializer_cutoff_factor": 2.0,
        "bos_token_id": ids.cls,
        "cls_token_id": ids.cls,
        "eos_token_id": ids.sep,
        "sep_token_id": ids.sep,
        "pad_token_id": ids.pad,
    }


def _check_options(shape: EncoderShape) -> None:
    """Raises HwsearchError, which names the option, where ModernBertConfig has no key for it."""
    a = shape.architecture
    for option, value in options_of(a).items():
        if option in FIXED_OPTIONS:
            raise HwsearchError(
                f"{shape}: {option}: {str(value).lower()} has no hf export: ModernBertConfig cannot say it"
                " (it exports as flexbert and yaml)"
            )
    for names, values in (
        ("qkv_bias and attention_out_bias", (a.qkv_bias, a.attention_out_bias)),
        ("mlp_in_bias and mlp_out_bias", (a.mlp_in_bias, a.mlp_out_bias)),
    ):
        if values[0] != values[1]:
            raise HwsearchError(
                f"{shape}: {names}: ModernBertConfig has one switch for both"
                " (each alone exports as flexbert and yaml)"
            )


def hf_config_text(shape: EncoderShape, ids: SpecialIds | None = None) -> str:
    return json.dumps(hf_config(shape, ids), indent=2) + "\n"
