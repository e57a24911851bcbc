"""Whole training runs of tiny shapes on real text, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hwsearch.errors import HwsearchError
from hwsearch.model import MaskedLanguageModel, load_weights
from hwsearch.shape import parse_shape
from hwsearch.shape.notation import parse_shape as read_shape
from hwsearch.training import Recipe, train

SHAPE = parse_shape("L2-h128-a2-i128-v1024-p512")
SHORT = Recipe(steps=4, tokens_per_step=512, sequence_length=64, learning_rate=1e-3)
FILES = ["config.json", "metrics.jsonl", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def read_all(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def metrics(out, kind):
    return [line for line in read_all(out) if line["kind"] == kind]


@pytest.fixture(scope="module")
def trained(python_text, tmp_path_factory):
    lines: list[str] = []
    recipe = Recipe(steps=260, tokens_per_step=1024, sequence_length=128, learning_rate=4e-3)
    out = tmp_path_factory.mktemp("run") / "out"
    result = train(SHAPE, [python_text], out, recipe, report=lines.append)
    return result, lines


def test_it_learns(trained):
    """1024 tokens guessed evenly cost ln 1024 = 6.93 nats; held-out loss must fall by over 1.5."""
    result, lines = trained
    assert result.held_out_before == pytest.approx(6.93, abs=0.1)
    assert result.held_out_after < result.held_out_before - 1.5
    assert f"{result.held_out_before:.3f} -> {result.held_out_after:.3f}" in lines[-1]
    assert any(f"{result.parameters:,} parameters" in line and "260 steps" in line for line in lines)


def test_folder_and_metrics(trained):
    result, _ = trained
    assert sorted(path.name for path in result.out.iterdir()) == FILES
    steps = metrics(result.out, "step")
    assert [line["step"] for line in steps] == list(range(1, 261)) and result.steps == 260
    assert steps[-1]["tokens"] == result.tokens <= 260 * 1024
    assert result.tokens > 0.9 * 260 * 1024
    held_out = metrics(result.out, "held_out")
    assert [line["loss"] for line in held_out] == [result.held_out_before, result.held_out_after]
    (start,) = metrics(result.out, "start")
    assert start["shape"] == SHAPE.to_dict() and start["recipe"]["steps"] == 260


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_loads_it_with_the_same_logits(trained, attention):
    out = trained[0].out
    hf = AutoModelForMaskedLM.from_pretrained(out, attn_implementation=attention).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    for role in ("pad", "bos", "eos", "cls", "sep"):
        assert getattr(hf.config, f"{role}_token_id") == tokenizer.convert_tokens_to_ids(
            {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}[role]
        )
    texts = ["import os", "def wrap(self, text):\n    return text\n" * 12, "x"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    rows = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    lengths = [len(row) for row in rows]
    assert max(lengths) > 129 > min(lengths)  # past the window, and padded
    ours = MaskedLanguageModel(read_shape(str(out)))
    load_weights(ours, out / "model.safetensors")
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    logits = ours(torch.cat(rows), offsets, max(lengths))
    padded = hf(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert (padded[batch["attention_mask"].bool()] - logits).abs().max() < 1e-5
    for row, expected in zip(rows, logits.split(lengths), strict=True):
        assert (hf(row[None]).logits[0] - expected).abs().max() < 1e-5


def test_same_seed_same_losses(python_text, tmp_path):
    losses = []
    for name, recipe in (("a", SHORT), ("b", SHORT), ("c", replace(SHORT, seed=1))):
        train(SHAPE, [python_text], tmp_path / name, recipe, report=lambda line: None)
        losses.append([line["loss"] for line in read_all(tmp_path / name) if "loss" in line])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_given_tokenizer_is_used_and_copied(trained, python_text, tmp_path):
    train(SHAPE, [python_text], tmp_path, SHORT, tokenizer=trained[0].out, report=lambda line: None)
    theirs = (trained[0].out / "tokenizer.json").read_text()
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"] == json.loads(theirs)["model"]


def test_ctrl_c_saves_the_last_finished_step(python_text, tmp_path):
    """The weights left are those of an unbroken run of just as many steps."""
    # Nothing may depend on how many steps were asked for: a constant learning rate, all of the text.
    recipe = replace(SHORT, steps=1_000_000, warmup_share=0.0, decay_share=0.0)
    options = {"report": lambda line: None}

    def interrupt_after_some_steps():
        log = tmp_path / "stopped" / "metrics.jsonl"
        while not log.exists() or log.read_text().count('"step"') < 8:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_after_some_steps, daemon=True).start()
    result = train(SHAPE, [python_text], tmp_path / "stopped", recipe, **options)
    assert result.interrupted and result.held_out_after is None
    assert result.steps == metrics(tmp_path / "stopped", "step")[-1]["step"] > 1

    train(SHAPE, [python_text], tmp_path / "whole", replace(recipe, steps=result.steps), **options)
    stopped, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_the_run(python_text, tmp_path):
    wild = replace(SHORT, steps=50, learning_rate=1e20, max_gradient_norm=None, warmup_share=0.0)
    with pytest.raises(HwsearchError, match=r"step \d+: the loss is nan .* no weights are saved"):
        train(SHAPE, [python_text], tmp_path, wild, report=lambda line: None)
    assert not (tmp_path / "model.safetensors").exists()


def test_norms_are_not_decayed(trained, python_text, tmp_path):
    """A huge decay at a rate that moves nothing else: matrices shrink, norms stay at one."""
    recipe = replace(SHORT, learning_rate=1e-9, weight_decay=1e7, warmup_share=0.0, decay_share=0.0)
    train(SHAPE, [python_text], tmp_path, recipe, report=lambda line: None)
    weights = load_file(tmp_path / "model.safetensors")
    # Each step multiplies by 1 - 1e-9 * 1e7; 0.8796 is the standard deviation left by the cut at 2 sigma.
    assert weights["model.layers.1.mlp.Wi.weight"].std().item() == pytest.approx(
        0.02 * 0.8796 * 0.99**4, rel=0.01
    )
    assert (weights["model.layers.1.attn_norm.weight"] - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("shape", "recipe", "words"),
    [
        ("bert-base", {}, "architecture"),
        ("L2-h64-a2-i96-v1024-p32", {}, "sequence_length: 64"),
        ("L2-h64-a2-i96-v100-p512", {}, "vocab_size: 100"),
        ("L2-h64-a4-i96-kv2-v1024-p512", {}, "num_key_value_heads"),
    ],
)
def test_shapes_that_cannot_be_trained_write_nothing(shape, recipe, words, python_text, tmp_path):
    with pytest.raises(HwsearchError, match=words):
        train(parse_shape(shape), [python_text], tmp_path / "out", replace(SHORT, **recipe))
    assert not (tmp_path / "out").exists()


def test_out_below_a_plain_file(python_text, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HwsearchError, match="file is a file"):
        train(SHAPE, [python_text], tmp_path / "file" / "out", SHORT, report=lambda line: None)


def test_empty_corpus_and_foreign_tokenizer_write_nothing(trained, python_text, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(HwsearchError, match="no text"):
        train(SHAPE, [tmp_path / "empty"], tmp_path / "out", SHORT)
    small = parse_shape("L2-h64-a2-i96-v512-p512")
    with pytest.raises(HwsearchError, match="vocab_size is 512"):
        train(small, [python_text], tmp_path / "out", SHORT, tokenizer=trained[0].out)
    assert not (tmp_path / "out").exists()
