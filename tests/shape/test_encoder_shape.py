"""EncoderShape: sizes, refusals, and the ways a user can name one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.hf_config import read_hf_config
from hwsearch.shape.notation import read_shape_yaml
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.table import ShapeTable

shapes = st.builds(
    lambda depth, heads, head_size, ffn, vocab, every, window, positions: EncoderShape(
        num_hidden_layers=depth,
        hidden_size=heads * head_size,
        num_attention_heads=heads,
        intermediate_size=ffn,
        vocab_size=vocab,
        global_attn_every_n_layers=every,
        local_attention=2 * window,
        max_position_embeddings=positions,
    ),
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from([16, 32, 64, 128]),
    st.integers(1, 9000),
    st.integers(1, 200_000),
    st.integers(1, 8),
    st.integers(1, 512),
    st.integers(1, 16384),
)


@given(shapes)
def test_notation_reads_back(shape: EncoderShape) -> None:
    assert parse_shape(str(shape)) == shape


@given(shapes)
def test_dict_reads_back(shape: EncoderShape) -> None:
    assert EncoderShape.from_dict(yaml.safe_load(yaml.safe_dump(shape.to_dict()))) == shape


@given(st.lists(shapes, min_size=1, max_size=5))
def test_table_rows_are_the_shapes(rows: list[EncoderShape]) -> None:
    table = ShapeTable.of(rows)
    assert [table.shape(i) for i in range(len(table))] == rows
    assert np.array_equal(masked_lm_parameters(table), [masked_lm_parameters(shape) for shape in rows])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_named_and_hash_apart(name: str) -> None:
    assert parse_shape(name) is PRESETS[name]
    assert len({shape.hash() for shape in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modernbert-huge", "accepted: a preset"),
        ("L28-h1024-a16", "intermediate_size is missing"),
        ("L28-h1024-a16-i2624-L3", "L stands here twice"),
        ("L28-h1000-a16-i2624", "16 does not divide"),
        ("L0-h1024-a16-i2624", "0 is not an integer from 1"),
        ("L28-h1024-a16-i2624-w127", "127 is odd"),
        ("L28-h1024-a16-i2624-kv5", "5 does not divide"),
        ("nowhere/config.json", "cannot read"),
        ("L2-h1000000000-a1-i8", "is not an integer from 1 to 300,000"),
        ("L2-h1000000000000000000000-a1-i8", "no such shape"),
        ("L\uff122-h64-a1-i64", "no such shape"),
        ("L2-h65-a1-i64", "head size 65 is odd"),
        ("tower:L2-h64-a1-i64", "architecture: 'tower' is unknown; accepted: modernbert, bert"),
    ],
)
def test_a_wrong_shape_says_what_is_accepted(text: str, said: str) -> None:
    with pytest.raises(HwsearchError, match=said):
        parse_shape(text)


def test_a_shape_file_names_the_line(tmp_path) -> None:
    path = tmp_path / "shape.yaml"
    path.write_text("num_hidden_layers: 2\nhidden_size: 64\nnum_attention_heads: 1\nintermediat_size: 9\n")
    with pytest.raises(HwsearchError, match=r"intermediat_size.*accepted"):
        read_shape_yaml(path)
    path.write_text("num_hidden_layers: 2\nhidden_size: wide\nnum_attention_heads: 1\nintermediate_size: 9\n")
    with pytest.raises(HwsearchError, match=r"shape\.yaml:2: hidden_size: 'wide' is not"):
        read_shape_yaml(path)


def test_hugging_face_configs_of_both_layouts(tmp_path) -> None:
    sizes = dict(
        model_type="modernbert",
        num_hidden_layers=5,
        hidden_size=128,
        num_attention_heads=2,
        intermediate_size=192,
        vocab_size=1000,
        local_attention=64,
        max_position_embeddings=512,
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**sizes, "global_attn_every_n_layers": 2}))
    four = read_hf_config(path)
    kinds = ["full_attention", "sliding_attention"] * 2 + ["full_attention"]
    path.write_text(json.dumps({**sizes, "layer_types": kinds}))
    assert parse_shape(str(tmp_path)) == four
    assert (four.global_attn_every_n_layers, four.num_global_layers, four.window) == (2, 3, 32)
    path.write_text(json.dumps({**sizes, "layer_types": [*kinds[::-1][:4], "sliding_attention"]}))
    with pytest.raises(HwsearchError, match="layer_types"):
        read_hf_config(path)
    for change, said in (
        ({"layer_types": kinds[:3]}, "one entry for each of 5"),
        ({"layer_types": 5}, "one entry for each of 5"),
        ({"layer_types": ["dense"] * 5}, "found 'dense'"),
        ({"global_attn_every_n_layers": "abc"}, "'abc' is not an integer"),
        ({"global_attn_every_n_layers": 2.7}, r"2\.7 is not"),
        ({"intermediate_size": None}, "intermediate_size: None is not an integer"),
        ({"hidden_size": 10**30}, "is not an integer from 1"),
        ({"mlp_bias": "no"}, "mlp_bias: found 'no'; accepted: true, false"),
        ({"hidden_activation": "mish"}, "hidden_activation: found 'mish'; accepted: gelu"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: found"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "accepted: rope_type default"),
        ({"rope_parameters": [1]}, "rope_parameters: found"),
        ({"global_rope_theta": "far"}, "global_rope_theta: found 'far'"),
    ):
        path.write_text(json.dumps({**sizes, **change}))
        with pytest.raises(HwsearchError, match=said):
            read_hf_config(path)
    path.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(HwsearchError, match="found 'bert'"):
        read_hf_config(path)
    path.write_text("{")
    with pytest.raises(HwsearchError, match=r"config\.json:1: not valid JSON"):
        read_hf_config(path)
