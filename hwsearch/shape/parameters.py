"""Exact parameter counts, for one shape or for a table of them.

The formulas add up the weights of the models' public code; for ModernBERT they reduce to
V*h + h + L*(4h^2 + 3hI + 2h) - h + h, plus h^2 + h + V for the masked-LM head.
"""

from __future__ import annotations

from typing import Any

from hwsearch.shape.table import Sizes


def token_embedding_parameters(shape: Sizes) -> Any:
    return shape.vocab_size * shape.hidden_size


def embedding_parameters(shape: Sizes) -> Any:
    """Token, learned position and segment tables with their norm; DeBERTa's relative table counts here."""
    a, h = shape.architecture, shape.hidden_size
    norms = a.norm_weights * (a.embedding_norm + (a.position == "relative"))
    return token_embedding_parameters(shape) + h * (position_rows(shape) + a.token_types + norms)


def position_rows(shape: Sizes) -> Any:
    """Rows of the learned or relative table."""
    a = shape.architecture
    return (
        shape.max_position_embeddings if a.position == "learned" and not a.position_rows else a.position_rows
    )


def layers_parameters(shape: Sizes) -> Any:
    """All encoder layers, each with two norms."""
    a, h = shape.architecture, shape.hidden_size
    qkv_rows = h + 2 * shape.key_value_heads * shape.head_size
    biases = a.qkv_bias * qkv_rows + (a.attention_out_bias + a.mlp_out_bias + 2 * a.norm_weights) * h
    return layers_matrices(shape) + shape.num_hidden_layers * biases + a.mlp_in_bias * mlp_in_rows(shape)


def mlp_in_rows(shape: Sizes) -> Any:
    """Rows of all layers' first feed-forward matrices: two branches where there is a gate."""
    a = shape.architecture
    branches = shape.num_hidden_layers * (1 + a.gated_mlp) - a.initial_plain_layers
    return shape.intermediate_size * branches


def body_parameters(shape: Sizes) -> Any:
    """Everything of the backbone outside its embedding block: layers and the norm after them.

    This is the N of the scaling laws: parameters outside the embedding.
    """
    a = shape.architecture
    norms_beside_layers = a.norm_weights * (a.final_norm - (not a.first_attention_norm))
    return layers_parameters(shape) + norms_beside_layers * shape.hidden_size


def backbone_parameters(shape: Sizes) -> Any:
    return embedding_parameters(shape) + body_parameters(shape)


def masked_lm_parameters(shape: Sizes) -> Any:
    """The backbone with its masked-LM head; a tied decoder weight counts once."""
    a, h = shape.architecture, shape.hidden_size
    transform = a.mlm_transform * (h * h + a.mlm_transform_bias * h + a.norm_weights * h)
    decoder = (not a.tied_decoder) * shape.vocab_size * h + a.decoder_bias * shape.vocab_size
    return backbone_parameters(shape) + transform + decoder


def layers_matrices(shape: Sizes) -> Any:
    """Weights of all layers that matrix products read."""
    h = shape.hidden_size
    rows_of_layer = h + 2 * shape.key_value_heads * shape.head_size + h + shape.intermediate_size
    return h * (shape.num_hidden_layers * rows_of_layer + mlp_in_rows(shape))


def layer_matrices(shape: Sizes) -> Any:
    """Weights of one layer that matrix products read, the largest where they differ."""
    qkv_rows = shape.hidden_size + 2 * shape.key_value_heads * shape.head_size
    mlp_rows = shape.intermediate_size * (2 + shape.architecture.gated_mlp)
    return shape.hidden_size * (qkv_rows + shape.hidden_size + mlp_rows)


def head_matrices(shape: Sizes) -> Any:
    """Weights of the masked-LM head that matrix products read, a tied decoder included."""
    return shape.hidden_size * (shape.hidden_size * shape.architecture.mlm_transform + shape.vocab_size)
