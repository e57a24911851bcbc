"""A run that is killed, or whose last checkpoint is damaged, ends as the unbroken one, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hwsearch.errors import HwsearchError
from hwsearch.shape import parse_shape
from hwsearch.training import train
from tests.training.recipes import two_phases

SHAPE = parse_shape("L2-h64-a2-i64-v512-p512")
# A checkpoint after every step, so that kills fall into writing one, too.
RECIPE = two_phases(save_every_seconds=0.0)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Where bits are promised; and a process that has used CUDA cannot fork."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def unbroken(python_text, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    assert train(SHAPE, [python_text], out, RECIPE, report=quiet).steps == 22
    return out


@pytest.fixture(scope="module")
def stopped(python_text, tmp_path_factory):
    """A folder in which Ctrl-C came after step 13."""

    def interrupt(line):
        if line.startswith("step 13/"):
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsearch.training.log.SECONDS_BETWEEN_LINES", 0.0)
        result = train(SHAPE, [python_text], out, RECIPE, report=interrupt)
    assert result.interrupted and result.held_out_after is None and result.steps in (13, 14)
    return out


def losses(out: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"], line["loss"]) for line in lines if "loss" in line]


def assert_same(out: Path, unbroken: Path) -> None:
    assert losses(out) == losses(unbroken)
    expected = load_file(unbroken / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_killed_at_random_moments(unbroken, python_text, tmp_path):
    seed = time.time_ns()
    print(f"seed {seed}")
    moments = random.Random(seed)
    log = tmp_path / "metrics.jsonl"
    for after in sorted(moments.choices(range(21), k=4)):
        child = multiprocessing.get_context("fork").Process(
            target=train,
            args=(SHAPE, [python_text], tmp_path, RECIPE),
            kwargs={"resume": True, "report": quiet},
        )
        child.start()
        while child.is_alive() and (not log.exists() or log.read_bytes().count(b'"step", "step"') < after):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
    train(SHAPE, [python_text], tmp_path, RECIPE, resume=True, report=quiet)
    assert_same(tmp_path, unbroken)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert all(name.startswith("step-") for name in names), "leftovers of killed processes are gone"


@pytest.mark.parametrize("damage", ["weights", "state", "position", "digests", "cut"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, stopped, unbroken, python_text, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    before, last = sorted((tmp_path / "checkpoints").iterdir())[-2:]
    files = {
        "weights": "model.safetensors",
        "state": "state.safetensors",
        "position": "state.json",
        "digests": "sha256.json",
    }
    if damage == "cut":
        (last / "model.safetensors").unlink()
    else:
        path = last / files[damage]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    lines = []
    train(SHAPE, [python_text], tmp_path, RECIPE, resume=True, report=lines.append)
    assert any(str(last) in line and "going back to the checkpoint before" in line for line in lines)
    assert any(f"going on after step {int(before.name[-7:])}, from {before}" in line for line in lines)
    assert_same(tmp_path, unbroken)
    assert (tmp_path / "checkpoints" / f"damaged-{last.name}").is_dir()


def test_resuming_a_finished_run_changes_nothing(unbroken, python_text):
    before = losses(unbroken)
    weights = (unbroken / "model.safetensors").read_bytes()
    assert train(SHAPE, [python_text], unbroken, RECIPE, resume=True, report=quiet).steps == 22
    assert losses(unbroken) == before
    assert (unbroken / "model.safetensors").read_bytes() == weights


def test_a_run_in_the_way_is_not_overwritten(unbroken, python_text):
    with pytest.raises(HwsearchError, match=r"holds a run already; accepted: --resume"):
        train(SHAPE, [python_text], unbroken, RECIPE, report=quiet)


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ("L3-h64-a2-i64-v512-p512", {}, r"another shape: num_hidden_layers: 2 then, 3 now"),
        ("L2-h64-a2-i64-v512-p512", {"seed": 4}, r"another recipe: seed: 3 then, 4 now"),
        ("L2-h64-a2-i64-v640-p512", {}, r"another shape: vocab_size: 512 then, 640 now"),
    ],
)
def test_going_on_with_something_else(shape, changes, words, unbroken, python_text):
    with pytest.raises(HwsearchError, match=words):
        train(parse_shape(shape), [python_text], unbroken, two_phases(**changes), resume=True, report=quiet)


def test_two_processes_in_one_folder(python_text, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(HwsearchError, match="another process trains here"):
            train(SHAPE, [python_text], tmp_path, RECIPE, report=quiet)
