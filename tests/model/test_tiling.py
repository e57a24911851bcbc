"""Tiling against the figures of ModernBERT's own initialisation, and on whole models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, ModernBertForMaskedLM

from hwsearch.errors import HwsearchError
from hwsearch.export import config_beside_weights, write_export
from hwsearch.model import MaskedLanguageModel, read_checkpoint, save_weights, tile_from
from hwsearch.model.tiling import layer_map, tile, tiled_weights
from hwsearch.model.weights import stored_state
from hwsearch.shape import PRESETS, EncoderShape, parse_shape

SMALL = "L3-h64-a2-i48-v100"
LARGE = "L5-h128-a4-i112-v100"


def saved(text: str, folder) -> MaskedLanguageModel:
    torch.manual_seed(0)
    model = MaskedLanguageModel(parse_shape(text))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    write_export(model.shape, "yaml", folder)
    save_weights(model, folder / "model.safetensors")
    return model


def test_layers_of_large_come_from_the_authors_layers_of_base():
    assert layer_map(22, 28) == [
        *(0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 16, 17, 18, 19, 20, 20, 21)
    ]
    assert layer_map(4, 4) == [0, 1, 2, 3]
    assert layer_map(2, 6) == [0, 0, 1, 1, 1, 1]


@given(st.integers(1, 60), st.integers(0, 60))
def test_every_layer_comes_from_one_that_is_there(small, more):
    layers = layer_map(small, small + more)
    assert layers == sorted(layers) and layers[0] == 0 and layers[-1] <= small - 1


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_the_middle_is_the_old_matrix_and_it_wraps(h, w, more_rows, more_columns):
    height, width = h + more_rows, w + more_columns
    old = torch.arange(h * w).view(h, w)
    new = tile(old, torch.Size((height, width)))
    rows, columns = (height - h) // 2, (width - w) // 2
    assert torch.equal(new[rows : rows + h, columns : columns + w], old)
    # np.pad's "wrap" is an independent way to say the same.
    padding = ((rows, height - h - rows), (columns, width - w - columns))
    assert np.array_equal(new.numpy(), np.pad(old.numpy(), padding, mode="wrap"))


def test_offsets_from_base_to_large_are_the_authors():
    """128 rows of Q, K and V each, 736 of either half of the feed-forward; the vocabulary stays."""
    base, large = PRESETS["modernbert-base"], PRESETS["modernbert-large"]
    h, wide, i, wider = 768, 1024, 1152, 2624
    few = {"num_hidden_layers": 1, "vocab_size": 8}
    small = EncoderShape.from_dict(base.to_dict() | few)
    model = MaskedLanguageModel(small)
    tensors = {name: tensor.detach() for name, tensor in stored_state(model).items()}
    tiled = tiled_weights(tensors, small, EncoderShape.from_dict(large.to_dict() | few), "base")
    qkv, old = tiled["model.layers.0.attn.Wqkv.weight"], tensors["model.layers.0.attn.Wqkv.weight"]
    for part in range(3):
        found = qkv[part * wide + 128 : part * wide + 128 + h, 128 : 128 + h]
        assert torch.equal(found, old[part * h : (part + 1) * h])
        assert torch.equal(qkv[part * wide, 128 : 128 + h], old[(part + 1) * h - 128])
    wi, old = tiled["model.layers.0.mlp.Wi.weight"], tensors["model.layers.0.mlp.Wi.weight"]
    for part in range(2):
        found = wi[part * wider + 736 : part * wider + 736 + i, 128 : 128 + h]
        assert torch.equal(found, old[part * i : (part + 1) * i])
    wo, old = tiled["model.layers.0.mlp.Wo.weight"], tensors["model.layers.0.mlp.Wo.weight"]
    assert torch.equal(wo[128 : 128 + h, 736 : 736 + i], old)
    words = tiled["model.embeddings.tok_embeddings.weight"]
    assert torch.equal(words[:, 128 : 128 + h], tensors["model.embeddings.tok_embeddings.weight"])
    assert torch.equal(tiled["decoder.bias"], tensors["decoder.bias"])


@pytest.mark.parametrize("options", ["", "+norm_bias=true+qkv_bias=true+mlp_in_bias=true:", "+mlp=plain:"])
def test_a_model_is_filled_from_a_folder(options, tmp_path):
    old = saved(options + SMALL, tmp_path)
    model = MaskedLanguageModel(parse_shape(options + LARGE))
    tile_from(model, tmp_path)
    assert torch.equal(model.model.layers[2].attn.Wo.weight[32:96, 32:96], old.model.layers[1].attn.Wo.weight)
    assert torch.equal(model.model.layers[4].mlp_norm.weight[32:96], old.model.layers[2].mlp_norm.weight)
    assert torch.equal(model.head.dense.weight[32:96, 32:96], old.head.dense.weight)
    assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight
    # Of a first layer without a norm nothing can be taken for a later layer.
    deep = MaskedLanguageModel(parse_shape(options + LARGE.replace("L5", "L6")))
    tile_from(deep, tmp_path)
    assert (deep.model.layers[1].attn_norm.weight == 1).all()


def test_the_same_shape_is_a_copy(tmp_path):
    old = saved(SMALL, tmp_path)
    model = MaskedLanguageModel(parse_shape(SMALL))
    tile_from(model, tmp_path)
    for name, tensor in old.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_folder_of_transformers_is_a_source(tmp_path):
    write_export(parse_shape(SMALL), "hf", tmp_path)
    hf = ModernBertForMaskedLM(AutoConfig.from_pretrained(tmp_path))
    hf.save_pretrained(tmp_path)
    model = MaskedLanguageModel(parse_shape(LARGE))
    tile_from(model, tmp_path)
    assert torch.equal(model.head.norm.weight[32:96], hf.head.norm.weight)
    assert torch.equal(model.model.layers[1].mlp.Wo.weight[32:96, 32:80], hf.model.layers[1].mlp.Wo.weight)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (LARGE.replace("v100", "v200"), "vocab_size: found 100; accepted: 200"),
        (LARGE.replace("a4", "a2"), "head_size"),
        (LARGE.replace("L5", "L2"), "num_hidden_layers: found 3; accepted: up to 2"),
        (LARGE.replace("i112", "i40"), "intermediate_size"),
        (f"+norm=rmsnorm:{LARGE}", "wired otherwise"),
    ],
)
def test_what_cannot_be_tiled_is_refused(text, word, tmp_path):
    saved(SMALL, tmp_path)
    with pytest.raises(HwsearchError, match=word):
        tile_from(MaskedLanguageModel(parse_shape(text)), tmp_path)


@pytest.mark.parametrize("options", ["", "+norm=rmsnorm:"])
def test_a_folder_of_weights_says_what_they_are(options, tmp_path):
    shape = parse_shape(options + SMALL)
    name, text = config_beside_weights(shape)
    assert name == ("shape.yaml" if options else "config.json")
    (tmp_path / name).write_text(text)
    save_weights(MaskedLanguageModel(shape), tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path)[0] == shape


def test_bad_folders_are_refused_by_name(tmp_path):
    model = MaskedLanguageModel(parse_shape(LARGE))
    with pytest.raises(HwsearchError, match=r"neither shape\.yaml nor config\.json"):
        tile_from(model, tmp_path / "nowhere")
    write_export(parse_shape(SMALL), "yaml", tmp_path)
    with pytest.raises(HwsearchError, match=r"model\.safetensors: not a readable"):
        tile_from(model, tmp_path)
    save_weights(MaskedLanguageModel(parse_shape(LARGE)), tmp_path / "model.safetensors")
    with pytest.raises(HwsearchError, match=r"found \(100|found \("):
        tile_from(model, tmp_path)
