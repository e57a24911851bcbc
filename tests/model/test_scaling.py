"""CompleteP without multipliers trains as CompleteP with them."""

from __future__ import annotations

import pytest
import torch

from hwsearch.errors import HwsearchError
from hwsearch.export import write_export
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.scaling import Scale, parameter_scales, scale_initial_weights
from hwsearch.shape import parse_shape

BASE = parse_shape("L2-h64-a2-i48-v100-g2")
DEEP = "L6-h128-a4-i192-v100-g2"
BIASES = "norm_bias=true+qkv_bias=true+attention_out_bias=true+mlp_in_bias=true+mlp_out_bias=true"
DEPTH, WIDTH, INNER = 3, 2, 4
LEARNING_RATE, EPS, STEPS = 3e-3, 1e-3, 6  # an eps that counts


def table_one(name: str) -> tuple[float, float]:
    """Factors of learning rate and eps as the paper's Table 1 has them, multipliers in the forward pass."""
    in_layer = ".layers." in name
    eps = 1 / WIDTH / (DEPTH if in_layer else 1)
    if ".mlp.Wo.weight" in name:
        return 1 / INNER, eps
    return (1 / WIDTH if name.endswith(("Wqkv.weight", "Wi.weight", "Wo.weight", "dense.weight")) else 1), eps


def losses(model, factors) -> list[float]:
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight], "lr": LEARNING_RATE * rate, "eps": EPS * eps}
            for weight, (rate, eps) in ((w, factors(name)) for name, w in model.named_parameters())
        ],
        weight_decay=0.0,
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 100, (120,), generator=generator)
    offsets = torch.tensor([0, 50, 120], dtype=torch.int32)
    positions = torch.arange(0, 120, 3)
    found = []
    for _ in range(STEPS):
        loss = model(tokens, offsets, 70, positions, tokens[positions] // 2) / len(positions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("options", ["", f"+{BIASES}:", "+tied_decoder=false:", "+norm=rmsnorm:"])
def test_it_trains_as_with_multipliers_in_the_forward_pass(options):
    shape = parse_shape(options + DEEP)
    scales = parameter_scales(shape, BASE)
    torch.manual_seed(0)
    plain = MaskedLanguageModel(shape)
    scale_initial_weights(plain, scales)
    explicit = MaskedLanguageModel(shape)
    explicit.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for name, weight in explicit.named_parameters():
            if ".Wo." in name:
                weight.mul_(DEPTH)
            if name.startswith("head.norm"):
                weight.mul_(WIDTH)
    for layer in explicit.model.layers:
        for branch in (layer.attn, layer.mlp):
            branch.register_forward_hook(lambda module, inputs, output: output / DEPTH)
    explicit.head.register_forward_hook(lambda module, inputs, output: output / WIDTH)
    expected = losses(explicit, table_one)
    assert expected[0] - expected[-1] > 0.3  # it learns, or equality would show nothing
    found = losses(plain, lambda name: (scales[name].learning_rate, scales[name].eps))
    assert found == pytest.approx(expected, rel=2e-4)


def test_initial_deviations_are_those_of_the_paper():
    shape = parse_shape("L8-h256-a8-i192-v100")
    base = parse_shape("L2-h64-a2-i48-v100")
    torch.manual_seed(0)
    model = MaskedLanguageModel(shape)
    scale_initial_weights(model, parameter_scales(shape, base))
    state, cut = model.state_dict(), 0.8796  # a normal cut at 2 sigma keeps so much of its deviation
    width, depth = 4, 4
    for name, std in (
        ("model.layers.3.attn.Wqkv.weight", 0.02 / width**0.5),
        ("model.layers.3.mlp.Wi.weight", 0.02 / width**0.5),
        ("model.layers.3.attn.Wo.weight", 0.02 / 2 / width**0.5 / depth),  # sqrt(2 * 2 layers) = 2
        ("model.layers.3.mlp.Wo.weight", 0.02 / 2 / width**0.5 / depth),
        ("head.dense.weight", 0.02 / width**0.5),
        ("model.embeddings.tok_embeddings.weight", 0.02),
    ):
        assert state[name].std().item() == pytest.approx(cut * std, rel=0.03), name
    assert (state["head.norm.weight"] == 1 / width).all()


def test_the_base_shape_is_left_alone():
    assert set(parameter_scales(BASE, BASE).values()) == {Scale()}


def test_every_parameter_has_a_scale_and_the_export_is_plain(tmp_path):
    shape = parse_shape(f"+{BIASES}:{DEEP}")
    names = {name for name, _ in MaskedLanguageModel(shape).named_parameters()}
    assert parameter_scales(shape, BASE).keys() == names
    write_export(shape, "hf", tmp_path)


def test_post_norm_is_refused():
    with pytest.raises(HwsearchError, match="norm_order"):
        parameter_scales(parse_shape(f"+norm_order=post:{DEEP}"), BASE)
