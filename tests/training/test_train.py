"""Whole training runs of tiny shapes on real text, and what they leave."""

from __future__ import annotations

import errno
import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hwsearch.errors import HwsearchError
from hwsearch.model import MaskedLanguageModel, load_weights
from hwsearch.shape import parse_shape
from hwsearch.shape.notation import parse_shape as read_shape
from hwsearch.training import checkpoint, recipe_of, short_recipe, train
from tests.training.recipes import PHASE, two_phases

SHAPE = parse_shape("L2-h128-a2-i128-v1024-p512")
SHORT = short_recipe(steps=4, tokens_per_step=512, sequence_length=64, learning_rate=1e-3)
TINY = parse_shape("L2-h64-a2-i64-v512-p512")
FOR_TRANSFORMERS = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def quiet(line):
    pass


def metrics(out, kind):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def one_phase(**changes):
    phase = {**PHASE, "name": "only", "tokens": 4 * 512, "keep_every": 100}
    return recipe_of({"phases": [phase | changes]})


@pytest.fixture(scope="module")
def trained(python_text, tmp_path_factory):
    lines: list[str] = []
    recipe = short_recipe(steps=260, tokens_per_step=1024, sequence_length=128, learning_rate=4e-3)
    out = tmp_path_factory.mktemp("run") / "out"
    result = train(SHAPE, [python_text], out, recipe, report=lines.append)
    return result, lines


def test_it_learns(trained):
    """1024 tokens guessed evenly cost ln 1024 = 6.93 nats, by their frequency some 6; it must do better."""
    result, lines = trained
    assert result.held_out_before == pytest.approx(6.93, abs=0.1)
    assert result.held_out_after < result.held_out_before - 1.2
    assert f"{result.held_out_before:.3f} -> {result.held_out_after:.3f}" in lines[-1]
    assert any(f"{result.parameters:,} parameters" in line and "260 steps" in line for line in lines)


def test_folder_and_metrics(trained):
    result, _ = trained
    names = {path.name for path in result.out.iterdir()}
    assert names - {".lock"} == {*FOR_TRANSFORMERS, "metrics.jsonl", "checkpoints", "tensorboard"}
    steps = metrics(result.out, "step")
    assert [line["step"] for line in steps] == list(range(1, 261)) and result.steps == 260
    assert 0.99 * 260 * 1024 < steps[-1]["tokens"] == result.tokens <= 260 * 1024
    assert all(0 < line["flops_utilisation"] < 10 for line in steps)
    held_out = metrics(result.out, "held_out")
    assert [line["loss"] for line in held_out] == [result.held_out_before, result.held_out_after]
    (start,) = metrics(result.out, "start")
    assert start["shape"] == SHAPE.to_dict() and start["recipe"]["phases"][0]["tokens"] == 260 * 1024


def test_checkpoints_kept_as_pythias(trained):
    """At powers of two and the end; only the newest two can be resumed from."""
    folders = sorted((trained[0].out / "checkpoints").iterdir())
    steps = [int(folder.name.removeprefix("step-")) for folder in folders]
    assert steps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 260]
    assert [(folder / "state.safetensors").exists() for folder in folders] == [False] * 8 + [True] * 2
    for folder in folders:
        assert {path.name for path in folder.iterdir()} >= set(FOR_TRANSFORMERS)
    AutoModelForMaskedLM.from_pretrained(folders[3])
    last = load_file(folders[-1] / "model.safetensors")
    assert all(
        torch.equal(last[name], t) for name, t in load_file(trained[0].out / "model.safetensors").items()
    )


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


def test_phases_change_theta_length_and_batch(python_text, tmp_path):
    lines = []
    result = train(TINY, [python_text], tmp_path, two_phases(), report=lines.append)
    steps = metrics(tmp_path, "step")
    assert [line["phase"] for line in steps] == ["first"] * 14 + ["second"] * 8 and result.steps == 22
    taken = [later - before for before, later in pairwise([0, *(line["tokens"] for line in steps)])]
    assert all(200 < tokens <= 256 for tokens in taken[:4]) and all(400 < t <= 512 for t in taken[4:])
    rates = [line["learning_rate"] for line in steps]
    assert rates[8:15] == [1e-3] * 7 and rates[14:] == sorted(rates[14:], reverse=True)
    thetas = {}
    for folder in (tmp_path / "checkpoints").iterdir():
        config = json.loads((folder / "config.json").read_text())
        thetas[folder.name] = config["rope_parameters"]["full_attention"]["rope_theta"]
    assert thetas["step-0000010"] == 10_000 and thetas["step-0000016"] == 160_000
    table = [line for line in lines if line.startswith(("phase", "first", "second"))]
    assert len(table) == 3 and "from 256 tokens/step on" in table[1]


def test_the_answer_is_the_mean_of_the_best_checkpoints(python_text, tmp_path):
    """`average: 2`: of the checkpoints of the last phase the two best on held-out text, and the last."""
    lines = []
    result = train(TINY, [python_text], tmp_path, two_phases(), report=lines.append)
    in_decay = {line["step"]: line["loss"] for line in metrics(tmp_path, "held_out") if line["step"] > 14}
    losses = {step: in_decay[step] for step in (16, 18, 20)}
    chosen = [*sorted(losses, key=losses.get)[:2], 22]
    assert f"the mean of the weights after steps {', '.join(map(str, chosen))}:" in lines
    files = [tmp_path / "checkpoints" / f"step-{step:07d}" / "model.safetensors" for step in chosen]
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        mean = sum(load_file(file)[name].double() for file in files) / 3
        assert (tensor.double() - mean).abs().max() < 1e-7
    assert metrics(tmp_path, "held_out")[-1]["loss"] == result.held_out_after


def test_same_seed_same_losses(python_text, tmp_path):
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(TINY, [python_text], tmp_path / name, SHORT.model_copy(update={"seed": seed}), report=quiet)
        losses.append(
            [line["loss"] for kind in ("held_out", "step") for line in metrics(tmp_path / name, kind)]
        )
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_given_tokenizer_is_used_and_copied(trained, python_text, tmp_path):
    train(SHAPE, [python_text], tmp_path, SHORT, tokenizer=trained[0].out, report=quiet)
    theirs = (trained[0].out / "tokenizer.json").read_text()
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"] == json.loads(theirs)["model"]


def test_a_larger_shape_starts_from_a_smaller_model(trained, python_text, tmp_path):
    larger = parse_shape("L3-h192-a3-i192-v1024-p512")
    options = {"tokenizer": trained[0].out, "report": quiet}
    fresh = train(larger, [python_text], tmp_path / "fresh", SHORT, **options)
    tiled = train(larger, [python_text], tmp_path / "tiled", SHORT, start=trained[0].out, **options)
    assert tiled.held_out_after < fresh.held_out_after - 0.2


def test_learning_rates_of_the_same_shape_change_nothing(python_text, tmp_path):
    losses = []
    for name, base in (
        ("as they are", None),
        ("of itself", TINY),
        ("of a narrower one", parse_shape("L1-h32-a1-i32-v512")),
    ):
        train(TINY, [python_text], tmp_path / name, SHORT, rates_of=base, report=quiet)
        losses.append([line["loss"] for line in metrics(tmp_path / name, "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_recomputation_changes_no_loss(python_text, tmp_path):
    losses = []
    for recompute in (False, True):
        train(TINY, [python_text], tmp_path / str(recompute), SHORT, recompute=recompute, report=quiet)
        losses.append([line["loss"] for line in metrics(tmp_path / str(recompute), "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_shape_that_transformers_cannot_build(python_text, tmp_path):
    shape = parse_shape("+norm=rmsnorm:L2-h64-a2-i64-v512-p512")
    train(shape, [python_text], tmp_path, SHORT, report=quiet)
    assert not (tmp_path / "config.json").exists()
    assert read_shape(str(tmp_path / "shape.yaml")) == shape


def test_a_loss_that_is_not_finite_stops_with_its_batch(python_text, tmp_path):
    wild = one_phase(learning_rate=1e30, warmup_tokens=512, tokens=8 * 512)
    with pytest.raises(
        HwsearchError, match=r"step (\d+): the loss is (nan|inf) at learning rate 1.00e\+30; its batch is in "
    ) as error:
        train(TINY, [python_text], tmp_path, wild, report=quiet)
    assert not (tmp_path / "model.safetensors").exists()
    (batch,) = tmp_path.glob("batch-step-*.safetensors")
    assert str(batch) in str(error.value)
    rows = load_file(batch)
    assert rows["0/tokens"].shape[0] == rows["0/cu_seqlens"][-1] and rows["1/targets"].numel() > 0
    assert list((tmp_path / "checkpoints").glob("step-*")), "what came before is kept"


@pytest.mark.parametrize("name", ["save_file", "_sync"])
def test_a_full_disk_leaves_the_last_good_checkpoint(name, python_text, tmp_path, monkeypatch):
    def full(*arguments, **options):
        if len(list((tmp_path / "checkpoints").glob("step-*"))) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    real = getattr(checkpoint, name)
    monkeypatch.setattr(checkpoint, name, full)
    recipe = two_phases(save_every_seconds=0.0)
    with pytest.raises(HwsearchError, match=r"step-00000\d\d: cannot write: No space left on device; older"):
        train(TINY, [python_text], tmp_path, recipe, report=quiet)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(names) == 3 and all(name.startswith("step-") for name in names)
    monkeypatch.undo()
    result = train(TINY, [python_text], tmp_path, recipe, resume=True, report=quiet)
    assert result.steps == 22


def test_norms_are_not_decayed(python_text, tmp_path):
    """A huge decay at a rate that moves nothing else: matrices shrink, norms stay at one."""
    recipe = one_phase(learning_rate=1e-9, weight_decay=0.01)
    train(SHAPE, [python_text], tmp_path, recipe, report=quiet)
    weights = load_file(tmp_path / "model.safetensors")
    # 0.8796 is the standard deviation left by the cut at 2 sigma; large updates take a part of the decay.
    share = weights["model.layers.1.mlp.Wi.weight"].std().item() / (0.02 * 0.8796)
    assert 0.99**4 * 0.99 < share < 0.98
    assert (weights["model.layers.1.attn_norm.weight"] - 1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("shape", "recipe", "words"),
    [
        ("bert-base", SHORT, "architecture"),
        ("L2-h64-a2-i96-v1024-p32", SHORT, "sequence_length: 64"),
        ("L2-h64-a2-i96-v100-p512", SHORT, "vocab_size: 100"),
        ("L2-h64-a4-i96-kv2-v1024-p512", SHORT, "num_key_value_heads"),
    ],
)
def test_shapes_that_cannot_be_trained_write_nothing(shape, recipe, words, python_text, tmp_path):
    with pytest.raises(HwsearchError, match=words):
        train(parse_shape(shape), [python_text], tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()


def test_out_below_a_plain_file(python_text, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HwsearchError, match="file is a file"):
        train(TINY, [python_text], tmp_path / "file" / "out", SHORT, report=quiet)


def test_empty_corpus_and_foreign_tokenizer_write_nothing(trained, python_text, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(HwsearchError, match="no text"):
        train(TINY, [tmp_path / "empty"], tmp_path / "out", SHORT)
    small = parse_shape("L2-h64-a2-i96-v512-p512")
    with pytest.raises(HwsearchError, match="vocab_size is 512"):
        train(small, [python_text], tmp_path / "out", SHORT, tokenizer=trained[0].out)
    assert not (tmp_path / "out").exists()


def test_a_judge_sees_every_kept_step_and_may_end_the_run(python_text, tmp_path):
    seen: list[int] = []

    def ends_at_four(step, loss):
        seen.append(step)
        assert loss == metrics(tmp_path / "ended", "held_out")[-1]["loss"]
        return step == 4

    recipe = one_phase(tokens=8 * 512, keep_every=2)
    result = train(TINY, [python_text], tmp_path / "ended", recipe, judge=ends_at_four, report=quiet)
    assert result.judged and not result.interrupted and result.steps == 4 and seen == [2, 4]
    assert result.held_out_after == metrics(tmp_path / "ended", "held_out")[-1]["loss"]
    assert not (tmp_path / "ended" / "model.safetensors").exists()

    # Left to itself it goes through the very same losses.
    train(TINY, [python_text], tmp_path / "whole", recipe, judge=lambda step, loss: False, report=quiet)
    whole = [line["loss"] for line in metrics(tmp_path / "whole", "step")]
    assert whole[:4] == [line["loss"] for line in metrics(tmp_path / "ended", "step")] and len(whole) == 8
