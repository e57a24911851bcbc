"""A run that is killed, or whose last checkpoint is damaged, ends as the unbroken one, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hwsearch.errors import HwsearchError
from hwsearch.shape import parse_shape
from hwsearch.training import train

from .recipes import two_phases

SHAPE = "L2-h64-a2-i64-v512-p512"
# A checkpoint after every step, so that kills fall into writing one, too.
RECIPE = two_phases(save_every_seconds=0.0)


def quiet(line: str) -> None:
    pass


def losses(out: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def unbroken(python_text, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    result = train(parse_shape(SHAPE), [python_text], out, RECIPE, report=quiet)
    assert result.steps == 22
    return out


def test_killed_at_random_moments(unbroken, python_text, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    command = [sys.executable, "-m", "hwsearch", "train", SHAPE, "--data", python_text, "--out", out]
    command += ["--recipe", recipe, "--resume"]
    seed = time.time_ns()
    print(f"seed {seed}")
    moments = random.Random(seed)
    for least in (1, 9, 16):  # steps after which it is killed, in both phases
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            log = out / "metrics.jsonl"
            while process.poll() is None and (not log.exists() or log.read_text().count('"step",') < least):
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, process.stderr.read()
    train(parse_shape(SHAPE), [python_text], out, RECIPE, resume=True, report=quiet)
    assert losses(out) == losses(unbroken)
    for name, tensor in load_file(unbroken / "model.safetensors").items():
        assert torch.equal(load_file(out / "model.safetensors")[name], tensor)
