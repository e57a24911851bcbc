"""Our counts against models that transformers builds on the meta device."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    EuroBertConfig,
    GteConfig,
    ModernBertConfig,
    NomicBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.parameters import backbone_parameters, masked_lm_parameters

# Settings of the published config.json files that sizes do not tell.
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
CONFIGS = {
    "modernbert": (ModernBertConfig, {}),
    "bert": (BertConfig, {"type_vocab_size": 2}),
    "roberta": (RobertaConfig, {"type_vocab_size": 1}),
    "deberta-v3": (DebertaV2Config, DEBERTA_V3),
    "nomic-bert": (NomicBertConfig, {"type_vocab_size": 2}),
    "gte": (GteConfig, {"type_vocab_size": 0}),
    "eurobert": (EuroBertConfig, {}),
}
SHAPES = [
    "L1-h64-a1-i64-v300",
    "L2-h6-a3-i1-v1000",
    "L3-h96-a3-i100-v999-g1",
    "L5-h128-a2-i192-v8192-g2-w64",
    "L7-h320-a5-i480-v4096-g4-w256-p1024",
    "L10-h256-a4-i1024-v32000-g9",
    "L12-h768-a12-i3072-v50368",
    "L16-h512-a8-i640-v50368-g8",
    "L22-h768-a12-i1152-v50368",
    "L28-h1024-a16-i2624-v50368",
    "L34-h1024-a16-i1920-v50368",
    "L40-h576-a9-i2304-v50368-g6-w512",
]


def config_of(shape: EncoderShape) -> PreTrainedConfig:
    config_class, wiring = CONFIGS[shape.architecture.name]
    sizes = shape.sizes()
    every = sizes.pop("global_attn_every_n_layers")
    window = sizes.pop("local_attention")
    if shape.architecture.name == "modernbert":
        wiring = {"global_attn_every_n_layers": every, "local_attention": window, "pad_token_id": 0}
    if shape.architecture.name != "eurobert":
        del sizes["num_key_value_heads"]
    if shape.architecture.position == "learned":
        sizes["max_position_embeddings"] = shape.architecture.position_rows
    return config_class(**sizes, **wiring)


def count(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("text", SHAPES)
def test_modernbert_shapes(text):
    compare(parse_shape(text))


@pytest.mark.parametrize("name", [n for n, s in PRESETS.items() if s.architecture.name in CONFIGS])
def test_presets_that_transformers_holds(name):
    compare(PRESETS[name])


def compare(shape: EncoderShape) -> None:
    config = config_of(shape)
    with torch.device("meta"):
        assert count(AutoModelForMaskedLM.from_config(config)) == masked_lm_parameters(shape)
        backbone = AutoModel.from_config(config)
    # Some backbones bring a pooler, which no masked-LM model has.
    pooler = getattr(backbone, "pooler", None)
    assert count(backbone) - (count(pooler) if pooler is not None else 0) == backbone_parameters(shape)


def test_published_counts_of_modernbert():
    """arXiv 2412.13663 states 149 and 395 million; the exact figures are the checkpoints' own."""
    assert masked_lm_parameters(PRESETS["modernbert-base"]) == 149_655_232
    assert masked_lm_parameters(PRESETS["modernbert-large"]) == 395_881_664
    assert backbone_parameters(PRESETS["modernbert-base"]) == 149_014_272
    assert backbone_parameters(PRESETS["modernbert-large"]) == 394_781_696
