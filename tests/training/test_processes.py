"""Several processes under torchrun train as one does."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hwsearch.errors import HwsearchError
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
    """A run of one process, and its folder as it was after step 5."""
    out, early = tmp_path_factory.mktemp("alone") / "out", tmp_path_factory.mktemp("early") / "out"

    def copy(line):
        if line.startswith("held-out") and "after step 5" in line:
            shutil.copytree(out, early)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        train(parse_shape(SHAPE), [python_text], out, RECIPE, report=copy)
    return losses(out), early


def test_two_processes_have_the_losses_of_one(alone, python_text, tmp_path):
    """In steps of one row, where a process has none, and of two."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "hwsearch", "train", SHAPE, "--data", python_text, "--out", tmp_path / "out"]
    command += ["--recipe", tmp_path / "recipe.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "out") == pytest.approx(alone[0], rel=1e-4)
    assert done.stdout.count("saved in") == 1, "one process speaks"


def test_a_run_of_one_process_goes_on_sharded_over_two(alone, python_text, tmp_path):
    expected, early = alone
    shutil.copytree(early, tmp_path / "out")
    start_two(fsdp=True, resume=True, data=python_text, out=tmp_path / "out")
    assert losses(tmp_path / "out") == pytest.approx(expected, rel=1e-4)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["model.embeddings.tok_embeddings.weight"].shape == (512, 64)


def start_two(*, data: Path, out: Path, **options: bool) -> None:
    """As torchrun does, but from this process, which has imported everything."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one, args=(rank, port, data, out, options)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0


def _one(rank: int, port: int, data: Path, out: Path, options: dict[str, bool]) -> None:
    torch.cuda.is_available = lambda: False
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    train(parse_shape(SHAPE), [data], out, RECIPE, report=lambda line: None, **options)


def test_sharding_over_one_process(python_text, tmp_path):
    with pytest.raises(HwsearchError, match=r"fsdp: .* several, started by torchrun"):
        train(parse_shape(SHAPE), [python_text], tmp_path, RECIPE, fsdp=True)
