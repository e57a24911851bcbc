"""Several processes under torchrun train as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hwsearch.shape import parse_shape
from hwsearch.training import train
from tests.training.recipes import two_phases

SHAPE = "L2-h64-a2-i64-v512-p512"
RECIPE = two_phases()


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def alone(python_text, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        train(parse_shape(SHAPE), [python_text], out, RECIPE, report=lambda line: None)
    return losses(out)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "hwsearch", "train", SHAPE, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("flags", [(), ("--fsdp",)], ids=["ddp", "fsdp2"])
def test_two_processes_have_the_losses_of_one(flags, alone, python_text, tmp_path):
    """Steps of one row, where a process has none, and of two, in which masks differ in number."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    options = ("--data", python_text, "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "out", *flags)
    done = torchrun(*options)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "out") == pytest.approx(alone, rel=1e-4)
    assert done.stdout.count("held-out loss") == len([line for line in done.stdout.splitlines() if "held-out loss" in line])
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 0


def test_sharding_over_one_process(cli, python_text):
    done = cli("train", SHAPE, "--data", python_text, "--out", "out", "--fsdp", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and "several, started by torchrun" in done.stderr
