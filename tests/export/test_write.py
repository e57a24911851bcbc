"""Exported files, read by the libraries that they are for and read back by us."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForMaskedLM, ModernBertConfig

from hwsearch.errors import HwsearchError
from hwsearch.export import FORMATS, write_export
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.hf_config import read_hf_config
from hwsearch.shape.notation import read_shape_yaml
from hwsearch.shape.parameters import masked_lm_parameters

MODERNBERTS = ["modernbert-base", "modernbert-large", "L7-h128-a2-i192-v1000-g3-w32-p512", "L3-h64-a1-i64-g5"]


@st.composite
def modernbert_shapes(draw) -> EncoderShape:
    heads = draw(st.integers(1, 32))
    return EncoderShape(
        num_hidden_layers=draw(st.integers(1, 40)),
        hidden_size=heads * draw(st.integers(1, 64)) * 2,
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 8192)),
        vocab_size=draw(st.integers(5, 200_000)),
        global_attn_every_n_layers=draw(st.integers(1, 45)),
        local_attention=2 * draw(st.integers(1, 4096)),
        max_position_embeddings=draw(st.integers(1, 131_072)),
    )


@pytest.mark.parametrize("text", MODERNBERTS)
def test_hf_model_has_exactly_our_parameters(text, tmp_path):
    shape = parse_shape(text)
    assert write_export(shape, "hf", tmp_path / "new" / "folder") == [
        tmp_path / "new" / "folder" / "config.json"
    ]
    config = AutoConfig.from_pretrained(tmp_path / "new" / "folder")
    assert isinstance(config, ModernBertConfig)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == masked_lm_parameters(shape)


@settings(max_examples=60, deadline=None)
@given(modernbert_shapes())
def test_hf_config_is_a_plain_modernbert_config(shape):
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_export(shape, "hf", Path(folder))
        config = AutoConfig.from_pretrained(folder)
        written = json.loads(path.read_text())
    assert written.keys() <= ModernBertConfig().to_dict().keys()
    seen = config.to_dict()
    for key, value in written.items():
        assert seen[key] == value, key
    assert config.sliding_window == shape.window
    for role in ("pad", "bos", "eos", "cls", "sep"):
        assert 0 <= getattr(config, f"{role}_token_id") < shape.vocab_size


@settings(max_examples=200, deadline=None)
@given(modernbert_shapes())
def test_hf_config_reads_back(shape):
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_export(shape, "hf", Path(folder))
        again = read_hf_config(path)
    # One global layer leaves n open, as every n from the depth up gives it; else n comes back.
    every = {"global_attn_every_n_layers": 1}
    assert shape.to_dict() | every == again.to_dict() | every
    assert again.num_global_layers == shape.num_global_layers
    if shape.num_global_layers > 1:
        assert again == shape


@settings(max_examples=100, deadline=None)
@given(modernbert_shapes())
def test_shape_yaml_reads_back(shape):
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write_export(shape, "yaml", Path(folder))
        assert read_shape_yaml(path) == shape


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_exports_as_yaml(name, tmp_path):
    write_export(PRESETS[name], "yaml", tmp_path)
    assert parse_shape(str(tmp_path)) == PRESETS[name]


# The model_config of AnswerDotAI/ModernBERT, branch pretraining_documentation,
# yamls/modernbert/modernbert-large-context-extension.yaml.
AUTHORS_LARGE = {
    "vocab_size": 50368,
    "init_method": "full_megatron",
    "num_hidden_layers": 28,
    "hidden_size": 1024,
    "intermediate_size": 2624,
    "num_attention_heads": 16,
    "attention_layer": "rope",
    "attention_probs_dropout_prob": 0.0,
    "attn_out_bias": False,
    "attn_out_dropout_prob": 0.1,
    "attn_qkv_bias": False,
    "bert_layer": "prenorm",
    "embed_dropout_prob": 0.0,
    "embed_norm": True,
    "final_norm": True,
    "skip_first_prenorm": True,
    "embedding_layer": "sans_pos",
    "loss_function": "fa_cross_entropy",
    "loss_kwargs": {"reduction": "mean"},
    "mlp_dropout_prob": 0.0,
    "mlp_in_bias": False,
    "mlp_layer": "glu",
    "mlp_out_bias": False,
    "normalization": "layernorm",
    "norm_kwargs": {"eps": 1e-5, "bias": False},
    "hidden_act": "gelu",
    "head_pred_act": "gelu",
    "activation_function": "gelu",
    "padding": "unpadded",
    "rotary_emb_dim": None,
    "rotary_emb_base": 160000.0,
    "rotary_emb_scale_base": None,
    "rotary_emb_interleaved": False,
    "local_attn_rotary_emb_base": 10000.0,
    "local_attn_rotary_emb_dim": None,
    "allow_embedding_resizing": True,
    "sliding_window": 128,
    "global_attn_every_n_layers": 3,
    "unpad_embeddings": True,
    "compile_model": True,
    "masked_prediction": True,
}
# Options that the authors leave to FlexBertConfig's defaults, which these values equal, but for
# max_position_embeddings, which embeddings without positions do not read.
SPELLED_OUT = {
    "max_position_embeddings": 8192,
    "decoder_bias": True,
    "head_pred_norm": True,
    "head_pred_bias": False,
}


def test_flexbert_of_modernbert_large_is_the_authors_own(tmp_path):
    (path,) = write_export(PRESETS["modernbert-large"], "flexbert", tmp_path)
    document = yaml.safe_load(path.read_text())
    assert document["model"]["model_config"] == AUTHORS_LARGE | SPELLED_OUT
    assert document["tokenizer_name"] == "answerdotai/ModernBERT-base"
    assert "395,881,664" in path.read_text()


def test_flexbert_with_all_layers_global_switches_windows_off(tmp_path):
    (path,) = write_export(parse_shape("L6-h128-a2-i192-v8192-g1"), "flexbert", tmp_path)
    config = yaml.safe_load(path.read_text())["model"]["model_config"]
    off = ("sliding_window", "global_attn_every_n_layers", "local_attn_rotary_emb_base")
    assert [config[key] for key in off] == [-1, -1, -1]
    assert yaml.safe_load(path.read_text())["tokenizer_name"] == "???"


@pytest.mark.parametrize(
    ("text", "format", "words"),
    [
        ("L6-h128-a2-i192", "flexbert", ["global_attn_every_n_layers", "4 and 7"]),
        ("L4-h128-a2-i192-v1001", "flexbert", ["vocab_size"]),
        ("L4-h128-a4-i192-kv2", "flexbert", ["num_key_value_heads"]),
        ("L4-h128-a4-i192-kv2", "hf", ["num_key_value_heads"]),
        ("L4-h128-a4-i192-v3", "hf", ["vocab_size"]),
        ("bert-base", "hf", ["architecture", "bert"]),
        ("neobert", "flexbert", ["architecture", "neobert"]),
        ("modernbert-base", "onnx", ["onnx", "hf, flexbert, yaml"]),
    ],
)
def test_what_a_format_cannot_hold_is_an_error_and_writes_nothing(text, format, words, tmp_path):
    with pytest.raises(HwsearchError) as caught:
        write_export(parse_shape(text), format, tmp_path / "out")
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_existing_files_are_replaced_whole_and_others_left(format, tmp_path):
    (path,) = write_export(PRESETS["modernbert-large"], format, tmp_path)
    large = path.read_text()
    path.write_text("x" * 100_000)
    (tmp_path / "notes.txt").write_text("mine")
    write_export(PRESETS["modernbert-large"], format, tmp_path)
    assert path.read_text() == large
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "notes.txt"])


def test_out_below_a_plain_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HwsearchError, match="file is a file"):
        write_export(PRESETS["modernbert-base"], "hf", tmp_path / "file" / "out")


def test_exporting_imports_neither_torch_nor_transformers():
    code = "import sys, hwsearch.export; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OPTIONS = (
    "+activation=gelu_tanh+norm_bias=true+qkv_bias=true+attention_out_bias=true+mlp_in_bias=true"
    "+mlp_out_bias=true+head_activation=silu+head_bias=true+decoder_bias=false+tied_decoder=false"
    "+norm_eps=1e-06+global_rope_theta=80000+local_rope_theta=160000:L4-h128-a2-i192"
)


def test_hf_options_build_our_parameters_and_read_back(tmp_path):
    shape = parse_shape(OPTIONS)
    write_export(shape, "hf", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == masked_lm_parameters(shape)
    config.save_pretrained(tmp_path / "theirs")
    assert parse_shape(str(tmp_path / "theirs")) == shape


def test_a_config_of_version_4_brings_its_thetas(tmp_path):
    write_export(PRESETS["modernbert-base"], "hf", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"], config["layer_types"]
    old = {"global_rope_theta": 80000.0, "local_rope_theta": None, "global_attn_every_n_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config | old))
    architecture = parse_shape(str(tmp_path)).architecture
    # Version 4 rotates local layers as global ones where it names no base for them.
    assert (architecture.global_rope_theta, architecture.local_rope_theta) == (80000.0, 80000.0)


@pytest.mark.parametrize(
    "option", ["mlp=plain", "norm=rmsnorm", "norm_order=post", "position=learned", "initial_plain_layers=1"]
)
def test_options_that_modernbertconfig_lacks_are_refused_by_name(option, tmp_path):
    shape = parse_shape(f"+{option}:L4-h128-a2-i192")
    with pytest.raises(HwsearchError, match=f"{option.split('=')[0]}: .* has no hf export"):
        write_export(shape, "hf", tmp_path)
    write_export(shape, "flexbert", tmp_path)
    write_export(shape, "yaml", tmp_path)
    assert parse_shape(str(tmp_path)) == shape


def test_one_bias_of_two_is_no_switch_of_modernbertconfig(tmp_path):
    with pytest.raises(HwsearchError, match="qkv_bias and attention_out_bias"):
        write_export(parse_shape("+qkv_bias=true:L4-h128-a2-i192"), "hf", tmp_path)


def test_flexbert_options(tmp_path):
    text = (
        "+activation=silu+norm=rmsnorm+norm_order=post+position=learned+qkv_bias=true+tied_decoder=false"
        "+initial_plain_layers=2+norm_eps=1e-06:L4-h128-a2-i192"
    )
    (path,) = write_export(parse_shape(text), "flexbert", tmp_path)
    config = yaml.safe_load(path.read_text())["model"]["model_config"]
    expected = {
        "hidden_act": "silu",
        "normalization": "rmsnorm",
        "norm_kwargs": {"eps": 1e-6},
        "bert_layer": "postnorm",
        "final_norm": False,
        "skip_first_prenorm": False,
        "embedding_layer": "absolute_pos",
        "attention_layer": "base",
        "unpad_embeddings": False,  # FlexBertConfig refuses it with learned positions
        "attn_qkv_bias": True,
        "attn_out_bias": False,
        "mlp_layer": "glu",
        "initial_mlp_layer": "mlp",
        "num_initial_layers": 2,
        "tie_word_embeddings": False,
        "head_pred_act": "gelu",
    }
    assert {key: config[key] for key in expected} == expected
