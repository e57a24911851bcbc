"""Our encoder against transformers' ModernBertForMaskedLM, both ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, ModernBertForMaskedLM

from hwsearch.errors import HwsearchError
from hwsearch.export import write_export
from hwsearch.model import MaskedLanguageModel, load_weights, save_weights
from hwsearch.model.encoder import positions_in_sequences
from hwsearch.shape import PRESETS, EncoderShape, count_flops, parse_shape
from hwsearch.shape.parameters import backbone_parameters, masked_lm_parameters

SHAPES = [
    "L5-h96-a3-i80-v300-g2-w32-p512",
    "L2-h64-a4-i96-v300-g3-w128-p512",
    "L4-h64-a1-i64-v300-g1-p512",
    "L4-h64-a2-i64-v300-g4-w8-p512",
]
HF_OPTIONS = [
    "activation=silu",
    "activation=gelu_tanh+head_activation=relu",
    "norm_bias=true+norm_eps=1e-06",
    "qkv_bias=true+attention_out_bias=true",
    "mlp_in_bias=true+mlp_out_bias=true",
    "head_bias=true+decoder_bias=false",
    "tied_decoder=false",
    "global_rope_theta=80000+local_rope_theta=500",
]
SHAPES += [f"modernbert+{options}:L4-h64-a2-i96-v300-w16-p512" for options in HF_OPTIONS]
OWN_OPTIONS = [
    "mlp=plain",
    "mlp=plain+mlp_in_bias=true+activation=relu",
    "norm=rmsnorm",
    "norm_order=post+norm_bias=true",
    "norm_order=post+norm=rmsnorm+embedding_norm=false",
    "embedding_norm=false",
    "first_attention_norm=true",
    "position=learned",
    "qkv_bias=true+mlp_out_bias=true",
    "initial_plain_layers=2+mlp_in_bias=true",
    "initial_plain_layers=4",
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
    places = positions_in_sequences(len(tokens), cu_seqlens.long())
    packed_logits = hf(tokens[None], position_ids=places[None], attention_mask=packed_masks(shape)).logits[0]
    torch.testing.assert_close(logits, packed_logits, rtol=0, atol=1e-5)


def packed_masks(shape: EncoderShape) -> dict[str, torch.Tensor]:
    """What transformers' own attention on CPUs adds to the scores of the packed LENGTHS."""
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    place = torch.arange(len(sequence))
    together = sequence[:, None] == sequence
    near = (place[:, None] - place).abs() <= shape.window
    shown = {"full_attention": together, "sliding_attention": together & near}
    hidden = torch.finfo(torch.float32).min
    return {kind: torch.where(mask, 0.0, hidden)[None, None] for kind, mask in shown.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", ["modernbert-base", "modernbert-large"])
def test_presets_give_the_logits_of_transformers(name, tmp_path):
    """At their own widths; fewer layers and words, as the whole models take minutes."""
    shape = replace(PRESETS[name], num_hidden_layers=2, vocab_size=500)
    torch.manual_seed(0)
    model = MaskedLanguageModel(shape)
    hf = loaded_by_transformers(model, tmp_path, "sdpa")
    tokens, cu_seqlens = packed([3, 150])
    logits = model(tokens, cu_seqlens, 150)
    assert logits.std() > 0.3
    for row, expected in zip(tokens.split([3, 150]), logits.split([3, 150]), strict=True):
        torch.testing.assert_close(hf(row[None]).logits[0], expected, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("options", [*OWN_OPTIONS, *HF_OPTIONS])
def test_counts_are_those_of_what_is_built(options):
    shape = parse_shape(f"+{options}:L5-h64-a2-i96-v300-w16-p40")
    with torch.device("meta"):
        model = MaskedLanguageModel(shape)
    assert sum(weight.numel() for weight in model.parameters()) == masked_lm_parameters(shape)
    assert sum(weight.numel() for weight in model.model.parameters()) == backbone_parameters(shape)
    products = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    in_products = 2 * sum(product.weight.numel() for product in products)
    assert count_flops(shape, [1]).matrices == in_products


@torch.no_grad()
@pytest.mark.parametrize("options", OWN_OPTIONS)
def test_sequences_of_a_batch_do_not_meet(options):
    model = ours(parse_shape(f"+{options}:L5-h64-a2-i96-v300-w16-p512"))
    tokens, cu_seqlens = packed(LENGTHS)
    together = model(tokens, cu_seqlens, 200)
    assert together.isfinite().all() and together.std() > 0.3
    for row, expected in zip(tokens.split(LENGTHS), together.split(LENGTHS), strict=True):
        alone = model(row, torch.tensor([0, len(row)], dtype=torch.int32), len(row))
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_learned_positions_restart_with_every_sequence():
    cu_seqlens = torch.tensor([0, 3, 3, 4, 6])
    assert positions_in_sequences(6, cu_seqlens).tolist() == [0, 1, 2, 0, 0, 1]
    model = ours(parse_shape("+position=learned:L2-h64-a2-i96-v300-w16-p64"))
    first, second, third, *rest = model.model.embeddings(torch.full((6,), 7), cu_seqlens)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    for expected, found in zip((first, first, second), rest, strict=True):
        torch.testing.assert_close(found, expected)


def reference(shape: EncoderShape, model: MaskedLanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one sequence, written out plainly, for the options that transformers does not have."""
    a, w, length = shape.architecture, dict(model.named_parameters()), len(tokens)

    def norm(x, name):
        if f"{name}.weight" not in w:
            return x
        if a.norm == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        y = x * (x.pow(2).mean(-1, keepdim=True) + a.norm_eps).rsqrt() * w[f"{name}.weight"]
        return y + w[f"{name}.bias"] if a.norm_bias else y

    def linear(x, name):
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def act(x, name):
        x64 = x.double()
        return {
            "gelu": lambda: x64 * (1 + torch.erf(x64 / 2**0.5)) / 2,
            "relu": lambda: x64.clamp(min=0),
        }[name]().float()

    def rotate(x, theta):
        half = shape.head_size // 2
        angle = torch.arange(length)[:, None] / theta ** (torch.arange(half) / half)
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * c - second * s, second * c + first * s], -1)

    def attention(x, index):
        name, is_global = f"model.layers.{index}.attn", index % shape.global_attn_every_n_layers == 0
        q, k, v = linear(x, f"{name}.Wqkv").view(length, 3, shape.num_attention_heads, -1).unbind(1)
        if a.position == "rope":
            theta = a.global_rope_theta if is_global else a.local_rope_theta
            q, k = rotate(q, theta), rotate(k, theta)
        scores = torch.einsum("ihd,jhd->hij", q, k) / shape.head_size**0.5
        distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        if not is_global:
            scores = scores.masked_fill(distance > shape.window, -torch.inf)
        return linear(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1), f"{name}.Wo")

    def feed_forward(x, index):
        inner = linear(x, f"model.layers.{index}.mlp.Wi")
        if a.gated_mlp and index >= a.initial_plain_layers:
            size = shape.intermediate_size
            inner = act(inner[:, :size], a.activation) * inner[:, size:]
        else:
            inner = act(inner, a.activation)
        return linear(inner, f"model.layers.{index}.mlp.Wo")

    x = w["model.embeddings.tok_embeddings.weight"][tokens]
    if a.position == "learned":
        x = x + w["model.embeddings.position_embeddings.weight"][:length]
    x = norm(x, "model.embeddings.norm")
    for index in range(shape.num_hidden_layers):
        attn_norm, mlp_norm = (f"model.layers.{index}.{part}_norm" for part in ("attn", "mlp"))
        if a.post_norm:
            x = norm(x + attention(x, index), attn_norm)
            x = norm(x + feed_forward(x, index), mlp_norm)
        else:
            x = x + attention(norm(x, attn_norm), index)
            x = x + feed_forward(norm(x, mlp_norm), index)
    x = norm(x, "model.final_norm")
    head = norm(act(linear(x, "head.dense"), a.head_activation), "head.norm")
    return head @ model.decoder.weight.T + (0 if model.decoder.bias is None else model.decoder.bias)


@torch.no_grad()
@pytest.mark.parametrize("options", OWN_OPTIONS)
def test_options_without_a_peer_do_what_they_say(options):
    shape = parse_shape(f"+{options}:L5-h64-a2-i96-v300-w16-p512")
    model = ours(shape)
    tokens, cu_seqlens = packed([70])
    expected = reference(shape, model, tokens)
    torch.testing.assert_close(model(tokens, cu_seqlens, 70), expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_a_changed_theta_reaches_logits_and_config(tmp_path):
    model = ours(parse_shape(SHAPES[0]))
    tokens, cu_seqlens = packed([200])
    before = model(tokens, cu_seqlens, 200)
    model.set_rope_theta(10_000.0)
    after = model(tokens, cu_seqlens, 200)
    assert not torch.allclose(before, after, atol=1e-3)
    hf = loaded_by_transformers(model, tmp_path, "sdpa")
    assert hf.config.rope_parameters["full_attention"]["rope_theta"] == 10_000.0
    torch.testing.assert_close(hf(tokens[None]).logits[0], after, rtol=0, atol=1e-5)
    model.set_rope_theta(160_000)
    assert model.shape == parse_shape(SHAPES[0])
    torch.testing.assert_close(model(tokens, cu_seqlens, 200), before)
    with pytest.raises(HwsearchError, match="rope_theta"):
        model.set_rope_theta(0.0)
    with pytest.raises(HwsearchError, match="rotates nothing"):
        ours(parse_shape("+position=learned:L2-h64-a2-i96-v300-p64")).set_rope_theta(10_000.0)


def test_recomputed_layers_have_the_same_loss_and_gradients():
    model = ours(parse_shape(SHAPES[0]))
    tokens, cu_seqlens = packed(LENGTHS)
    positions = torch.tensor([3, 70, 199])
    targets = tokens[positions]
    found = []
    saved = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        sizes = 0

        def count(tensor):
            nonlocal sizes
            sizes += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(tokens, cu_seqlens, 200, positions, targets)
        loss.backward()
        found.append([loss.detach(), *(weight.grad.clone() for weight in model.parameters())])
        saved.append(sizes)
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)
    assert saved[1] < saved[0] / 4


@torch.no_grad()
def test_rms_norms_stay_float32_under_autocast():
    """A GPU's autocast does so for LayerNorm, but not for torch's RMSNorm."""
    model = ours(parse_shape(f"+norm=rmsnorm:{SHAPES[0]}"))
    tokens, cu_seqlens = packed([20])
    with torch.autocast("cpu", torch.bfloat16):
        assert model.head_states(tokens, cu_seqlens, 20).dtype == torch.float32


def test_the_loss_is_the_cross_entropy_of_the_logits():
    model = ours(parse_shape(SHAPES[0]))
    tokens, cu_seqlens = packed(LENGTHS)
    positions = torch.tensor([3, 70, 199])
    expected = torch.nn.functional.cross_entropy(
        model(tokens, cu_seqlens, 200, positions), tokens[positions], reduction="sum"
    )
    torch.testing.assert_close(model(tokens, cu_seqlens, 200, positions, tokens[positions]), expected)


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
