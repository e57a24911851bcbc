"""benchmarks/training.py: that it runs on a CPU, on the same documents and targets for both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
from data import word_tokenizer
from trainer_side import TrainerStep
from training import (
    AT_BEST,
    BOUND,
    MAKERS,
    MIX,
    ON_GPU,
    OURS,
    ROWS_1024,
    SMOKE,
    TRAINER,
    TRAINER_AT_BEST,
    compare,
    fastest,
    judged,
    task_of,
)
from training_sides import Setting, Task, _examples, _order

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def task() -> Task:
    tokenizer = word_tokenizer(SMOKE.shape.vocab_size)
    return task_of(MIX, SMOKE, torch.device("cpu"), None, tokenizer)


def test_smoke(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "training.py", "--smoke"),
            *("--rounds", "1", "--out", "out.json"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(row["case"], row["side"]) for row in found["rows"]] == [
        (case, side) for case in (MIX, ROWS_1024) for side in MAKERS
    ]
    for row in found["rows"]:
        assert row["tokens_per_second"] > 0
        assert (row["peak_bytes"] or 0) > 0 or row["side"] in (BOUND, TRAINER, TRAINER_AT_BEST)
        assert f"| {row['side']} |" in done.stdout
    assert len(found["targets"]) == done.stdout.count(", asked ") == len(SMOKE.targets)


def test_both_sides_read_the_same_documents(task: Task) -> None:
    found = [example["input_ids"] for example in _examples(task)]
    assert [len(ids) for ids in found] == task.lengths.tolist()
    tokens = task.cache.training.tokens
    assert np.array_equal(np.concatenate([ids[1:-1] for ids in found]), tokens)


@pytest.mark.parametrize("at_best", [False, True])
def test_a_step_of_transformers_is_about_as_large_as_ours(task: Task, at_best: bool) -> None:
    order = _order(task, Setting(1024, at_best=at_best))
    assert {len(step) for step in order} == {2}
    numbers = list(chain.from_iterable(chain.from_iterable(order)))
    assert len(numbers) == len(set(numbers))
    for step in order:
        tokens = sum(int(task.lengths[micro].sum()) for micro in step)
        assert tokens == pytest.approx(SMOKE.step_tokens, rel=0.5)


def test_grouping_saves_padding(task: Task) -> None:
    def padded(at_best: bool) -> int:
        steps = _order(task, Setting(1024, at_best=at_best))
        return sum(int(task.lengths[micro].max()) * len(micro) for micro in chain.from_iterable(steps))

    assert padded(True) < padded(False)


def test_what_trainer_cannot_run_is_told_to_the_caller(task: Task) -> None:
    step = TrainerStep(task, Setting(1024, attention="nonsense"))
    with pytest.raises(ValueError, match="nonsense"):
        step()
    step.close()
    TrainerStep(task, Setting(1024, attention="sdpa")).close()  # not begun


def test_targets() -> None:
    rows = [
        {"case": MIX, "side": side, "hwsearch_over_it": ratio, "tokens_per_second": 1.0}
        for side, ratio in ((OURS, 1.0), (TRAINER, 2.5), (TRAINER_AT_BEST, 1.0))
    ]
    assert [(each["found"], each["asked"]) for each in judged(SMOKE, rows, False)] == [(2.5, 2.0), (1.0, 1.1)]


def test_on_a_gpu_the_sweep_ends_where_smaller_batches_are_slower_and_passes_over_what_fails(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def measured(side: str, task: Task, setting: Setting, steps: int) -> float:
        tried.append((setting.attention, setting.micro_tokens, setting.compiled))
        if setting.attention == "flex_attention":
            raise KeyError("no such kernel")
        if setting.micro_tokens == 65_536:
            raise RuntimeError("CUDA out of memory")
        return setting.micro_tokens * (1.5 if setting.compiled else 1.0)

    monkeypatch.setattr(training, "median_rate", measured)
    monkeypatch.setattr(training, "release", lambda device: None)
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    monkeypatch.setattr(training, "ON_GPU", replace(ON_GPU, micro_tokens=(8_192, 16_384, 32_768, 65_536)))
    on_gpu = replace(task, device=torch.device("cuda"))
    best, rates = fastest(AT_BEST, training.ON_GPU, on_gpu)
    assert best == Setting(32_768, compiled=True, attention="sdpa", at_best=True)
    sdpa = [(size, compiled) for attention, size, compiled in tried if attention == "sdpa"]
    assert sdpa == [(65_536, False), (32_768, False), (16_384, False), (32_768, True)]
    assert len(rates) == 2
    printed = capsys.readouterr().out
    assert "flex_attention: left out: KeyError" in printed and "CUDA out of memory" in printed


def test_a_side_that_fails_costs_only_its_own_row(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: Task, setting: Setting) -> Any:
        raise TypeError("not this version")

    makers = {side: broken if "Trainer" in side else lambda task, setting: lambda: 1024 for side in MAKERS}
    monkeypatch.setattr(training, "MAKERS", makers)
    monkeypatch.setattr(training, "peak_of", lambda step, device: None)
    rows = compare(MIX, task, SMOKE, rounds=1)
    assert [row["side"] for row in rows] == [side for side in MAKERS if "Trainer" not in side]
    assert judged(SMOKE, rows, on_gpu=False) == []
