"""Our encoder against transformers' ModernBertForMaskedLM, both ways."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, ModernBertForMaskedLM

from hwsearch.errors import HwsearchError
from hwsearch.export import write_export
from hwsearch.model import MaskedLanguageModel, load_weights, save_weights
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.parameters import masked_lm_parameters

SHAPES = [
    "L5-h96-a3-i80-v300-g2-w32-p512",
    "L2-h64-a4-i96-v300-g3-w128-p512",
    "L4-h64-a1-i64-v300-g1-p512",
    "L4-h64-a2-i64-v300-g4-w8-p512",
]
LENGTHS = [1, 129, 64, 3, 65, 200]


@pytest.fixture(params=SHAPES)
def shape(request) -> EncoderShape:
    return parse_shape(request.param)


def ours(shape: EncoderShape, seed: int = 0) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    model = MaskedLanguageModel(shape)
    # Norm weights of one and a zero bias would hide a norm in the wrong place; small weights hide all.
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight) if weight.dim() == 1 else weight * 3)
    return model


def loaded_by_transformers(model, folder, attention) -> ModernBertForMaskedLM:
    write_export(model.shape, "hf", folder)
    save_weights(model, folder / "model.safetensors")
    loaded, info = ModernBertForMaskedLM.from_pretrained(
        folder, attn_implementation=attention, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return loaded.eval()


def packed(lengths, vocab_size=300):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, vocab_size, (sum(lengths),), generator=generator)
    return tokens, torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_same_logits_as_transformers_single_and_padded(shape, attention, tmp_path):
    model = ours(shape)
    hf = loaded_by_transformers(model, tmp_path, attention)
    tokens, cu_seqlens = packed(LENGTHS)
    logits = model(tokens, cu_seqlens, max(LENGTHS))
    assert logits.std() > 0.3  # a comparison of near-zeros would prove nothing

    rows = tokens.split(LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=3)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    theirs = hf(input_ids=padded, attention_mask=mask).logits
    torch.testing.assert_close(logits, theirs[mask.bool()], rtol=0, atol=1e-5)
    for row, expected in zip(rows, logits.split(LENGTHS), strict=True):
        torch.testing.assert_close(hf(input_ids=row[None]).logits[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_loads_weights_saved_by_transformers(shape, tmp_path):
    write_export(shape, "hf", tmp_path)
    torch.manual_seed(1)
    hf = ModernBertForMaskedLM(AutoConfig.from_pretrained(tmp_path)).eval()
    hf.save_pretrained(tmp_path)
    model = MaskedLanguageModel(shape)
    load_weights(model, tmp_path / "model.safetensors")
    tokens, cu_seqlens = packed([70])
    torch.testing.assert_close(model(tokens, cu_seqlens, 70), hf(tokens[None]).logits[0], rtol=0, atol=1e-5)


def test_names_and_count_are_those_of_transformers(shape, tmp_path):
    write_export(shape, "hf", tmp_path)
    with torch.device("meta"):
        hf = ModernBertForMaskedLM(AutoConfig.from_pretrained(tmp_path))
        model = MaskedLanguageModel(shape)
    sizes = {name: tuple(t.shape) for name, t in hf.state_dict().items()}
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == sizes
    assert sum(weight.numel() for weight in model.parameters()) == masked_lm_parameters(shape)


@torch.no_grad()
def test_positions_pick_rows_of_all_logits():
    model = ours(parse_shape(SHAPES[0]))
    tokens, cu_seqlens = packed(LENGTHS)
    every = model(tokens, cu_seqlens, 200)
    positions = torch.tensor([0, 5, 461])
    torch.testing.assert_close(model(tokens, cu_seqlens, 200, positions), every[positions])


def test_gradients_are_those_of_transformers(tmp_path):
    model = ours(parse_shape(SHAPES[0]))
    hf = loaded_by_transformers(model, tmp_path, "eager")
    tokens, cu_seqlens = packed([200])
    positions = torch.tensor([3, 70, 199])
    loss = torch.nn.functional.cross_entropy(model(tokens, cu_seqlens, 200, positions), tokens[positions])
    labels = torch.full((200,), -100)
    labels[positions] = tokens[positions]
    expected = hf(tokens[None], labels=labels[None]).loss
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    theirs = dict(hf.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-6, msg=name)


def test_initial_weights_follow_megatron():
    torch.manual_seed(0)
    shape = parse_shape("L8-h128-a2-i256-v1000")
    for name, weight in MaskedLanguageModel(shape).named_parameters():
        if name == "decoder.bias":
            assert not weight.any()
        elif weight.dim() == 1:
            assert (weight == 1).all()
        else:
            std = 0.02 / 4 if name.endswith("Wo.weight") else 0.02  # sqrt(2 * 8 layers) = 4
            assert weight.abs().max() <= 2 * std
            # A normal cut at 2 sigma keeps 0.8796 of its standard deviation.
            assert weight.std().item() == pytest.approx(0.8796 * std, rel=0.02)


@pytest.mark.parametrize(
    ("text", "word"),
    [("bert-base", "architecture"), ("L2-h64-a4-i64-kv2", "num_key_value_heads"), ("L2-h6-a2-i8", "odd")],
)
def test_other_wirings_are_refused(text, word):
    with pytest.raises(HwsearchError, match=word):
        MaskedLanguageModel(parse_shape(text))


def test_weights_of_another_shape_are_refused(tmp_path):
    save_weights(MaskedLanguageModel(parse_shape(SHAPES[0])), tmp_path / "w.safetensors")
    for other in (
        SHAPES[0].replace("i80", "i96"),
        SHAPES[0].replace("L5", "L6"),
        SHAPES[0].replace("L5", "L4"),
    ):
        with pytest.raises(HwsearchError, match=r"model\.layers\."):
            load_weights(MaskedLanguageModel(parse_shape(other)), tmp_path / "w.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x07")
    with pytest.raises(HwsearchError, match="safetensors"):
        load_weights(MaskedLanguageModel(parse_shape(SHAPES[0])), tmp_path / "broken.safetensors")
