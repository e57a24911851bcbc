"""FLOPs against a count of every product, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.shape import PRESETS, EncoderShape, count_flops
from hwsearch.shape.flops import visible_pairs


@given(st.lists(st.integers(0, 40), max_size=6), st.one_of(st.none(), st.integers(0, 50)))
def test_visible_pairs_are_those_inside_the_window(lengths: list[int], window: int | None) -> None:
    reach = max([*lengths, 1]) if window is None else window
    expected = sum(abs(i - j) <= reach for s in lengths for i in range(s) for j in range(s))
    assert visible_pairs(lengths, window) == expected


def test_the_window_counts_129_keys_for_128() -> None:
    assert visible_pairs([1000], 64) - visible_pairs([999], 64) == 129


def test_every_product_of_a_small_encoder() -> None:
    shape = EncoderShape(
        num_hidden_layers=4,
        hidden_size=128,
        num_attention_heads=2,
        intermediate_size=192,
        vocab_size=640,
        global_attn_every_n_layers=3,
        local_attention=16,
    )
    lengths = [3, 40]
    tokens = 43
    per_layer = 2 * tokens * (128 * 384 + 128 * 128 + 128 * 384 + 192 * 128)
    pairs_local = sum(abs(i - j) <= 8 for s in lengths for i in range(s) for j in range(s))
    flops = count_flops(shape, lengths, head_tokens=5)
    assert flops.matrices == 4 * per_layer
    assert flops.attention_global == 2 * 4 * 128 * (9 + 1600)
    assert flops.attention_local == 2 * 4 * 128 * pairs_local
    assert flops.head == 2 * 5 * (128 * 128 + 128 * 640)
    assert flops.training == 3 * flops.forward


@pytest.mark.parametrize("name", ["modernbert-large", "bert-base", "eurobert-610m"])
def test_matrices_are_two_flops_a_weight_and_token(name: str) -> None:
    """The 2N rule of the scaling laws, on the weights that multiply tokens."""
    shape = PRESETS[name]
    h, i = shape.hidden_size, shape.intermediate_size
    weights = shape.num_hidden_layers * (
        h * (h + 2 * shape.key_value_heads * 64) + h * h + h * i * (3 if shape.architecture.gated_mlp else 2)
    )
    assert count_flops(shape, [7]).matrices == 2 * 7 * weights


def test_padding_and_relative_positions_cost() -> None:
    deberta, bert = PRESETS["deberta-v3-base"], PRESETS["bert-base"]
    assert count_flops(deberta, [512]).attention_global > 2 * count_flops(bert, [512]).attention_global
