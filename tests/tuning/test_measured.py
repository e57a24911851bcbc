"""Measured tuning of attention on the CPU, from a problem to the row of a table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.cpu_kernels.library import why_none
from hwsearch.kernels.triton_attention import space
from hwsearch.kernels.tuned import Key, Row, forget, own_folder, table_path
from hwsearch.tuning import attention_runs, workshop
from hwsearch.tuning.attention import AttentionKernel
from hwsearch.tuning.final_race import Limits
from hwsearch.tuning.kernel import WrongResult
from hwsearch.tuning.measured import TuningInterrupted, recommended, tune_measured
from hwsearch.tuning.problems import Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import header_of, merge_rows
from hwsearch.workload import parse_workload
from tests.tuning.in_process import Here


@pytest.fixture(scope="module")
def cpu() -> Gpu:
    return load_gpu("cpu")


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tables of the user's, and no interpreter, whose kernels a CPU would be offered at seconds a run."""
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    yield
    forget()


def problem(
    cpu: Gpu, kernel: str, length: int = 64, dtype: str = "fp32", window: int | None = None
) -> Problem:
    key = Key(dtype, 32, "global" if window is None else "narrow", length)
    return Problem(kernel, cpu, key, 2, parse_workload(f"normal:48,8,32..{length}x8"), window)


def tune(problem: Problem, folder: Path, **changes: Any) -> Row:
    options: dict[str, Any] = {
        "trials": 20, "seconds": 120.0, "objective": "time", "workers": 1, "report": lambda progress: None,
    }  # fmt: skip
    return tune_measured(problem, folder=folder, **{**options, **changes})


@pytest.mark.parametrize("kernel", ["attention_backend", "attention_backend_training"])
@pytest.mark.parametrize("window", [None, 16])
def test_the_choice_of_a_backend_on_a_cpu(
    cpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, window: int | None
) -> None:
    monkeypatch.setattr(workshop, "Child", Here)
    row = tune(problem(cpu, kernel, window=window), tmp_path)
    ranked = [row.config["backend"], *(config["backend"] for config, _ in row.alternatives)]
    assert sorted(ranked) == sorted(["cpu", "sdpa", *["native"] * (why_none() is None)])
    assert row.default_seconds is not None
    assert 0 < row.seconds <= row.default_seconds
    assert (row.triton, row.driver, row.joules, row.torch) == (
        None,
        None,
        None,
        torch.__version__,
    )
    assert [path.name for path in tmp_path.glob("*.log")] == [
        f"{kernel}-fp32-32-{'global' if window is None else 'narrow'}-64.log"
    ]


def test_from_a_problem_to_a_table_with_real_processes(cpu: Gpu, tmp_path: Path, no_compiler: None) -> None:
    seen: list[Progress] = []
    asked = problem(cpu, "attention_backend")
    row = tune(asked, tmp_path / "studies", report=seen.append)
    assert [each.state for each in seen if each.trial == 2] == [seen[-2].state, "finals"]
    path = table_path(tmp_path, "cpu", "attention_backend")
    merge_rows(path, header_of("attention_backend", cpu), [row])
    assert '"source": "measured"' in path.read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
@pytest.mark.parametrize("kernel", ["attention_forward", "attention_backward"])
def test_tiles_under_the_interpreter(
    cpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """The whole path of the Triton kernels; the times are the interpreter's and mean nothing."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if kernel == "attention_backward":
        monkeypatch.setattr(workshop, "Child", Here)
    whole = space.space_of

    def three(*arguments: Any) -> list[dict[str, Any]]:
        found = whole(*arguments)
        default = space.default_config(*arguments)
        return [default, *[config for config in found if config != default][:: len(found) // 2][:2]]

    monkeypatch.setattr(space, "space_of", three)
    asked = replace(problem(cpu, kernel, length=32), heads=1, workload=parse_workload("fixed:16x1"))
    row = tune(asked, tmp_path, limits=Limits(most_pairs=3, most_rounds=3))
    assert row.default_seconds is not None and len(row.alternatives) == 2
    path = table_path(tmp_path, "cpu", kernel)
    merge_rows(path, header_of(kernel, cpu), [row])  # the reader accepts it


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"kernel": "gemm"}, {}, "kernel: found 'gemm'"),
        ({"kernel": "attention_forward"}, {}, "only under TRITON_INTERPRET=1"),
        ({}, {"objective": "energy"}, "no energy counter"),
        ({}, {"objective": "both"}, "no energy counter"),
        ({}, {"objective": "speed"}, "objective: found 'speed'"),
        ({}, {"trials": 0}, "found 0 trials"),
        ({}, {"seconds": float("inf")}, "inf seconds"),
        ({}, {"workers": -1}, "-1 workers"),
        ({"gpu": "h200-sxm"}, {}, "h200-sxm is not in this machine, which has"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(
    cpu: Gpu,
    tmp_path: Path,
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    if "gpu" in changes:
        changes = {"gpu": load_gpu(changes["gpu"])}
    with pytest.raises(HwsearchError, match=message):
        tune(replace(problem(cpu, "attention_backend"), **changes), tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(cpu: Gpu, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HwsearchError, match="is a file"):
        tune(problem(cpu, "attention_backend"), tmp_path / "file")


def test_ctrl_c_carries_the_row(
    cpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: None
) -> None:
    monkeypatch.setattr(workshop, "Child", Here)

    def press(progress: Progress) -> None:
        if progress.state == "complete":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TuningInterrupted) as stopped:
        tune(problem(cpu, "attention_backend"), tmp_path, report=press)
    assert stopped.value.row is not None and stopped.value.row.config == {"backend": "cpu"}


def test_a_wrong_configuration_is_not_kept(
    cpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: None
) -> None:
    """One backend leaves a single row unwritten, another is right."""
    right = attention_runs.backend

    def forgetful(batch: Any, name: str) -> Any:
        run, outputs = right(batch, name)

        def spoiled() -> dict[str, torch.Tensor]:
            found = dict(outputs())
            if name == "sdpa":
                found["out"] = found["out"].clone()
                found["out"][-1, 0] = 0.0
            return found

        return run, spoiled

    monkeypatch.setattr(workshop, "Child", Here)
    monkeypatch.setattr(attention_runs, "backend", forgetful)
    seen: list[Progress] = []
    row = tune(problem(cpu, "attention_backend"), tmp_path, report=seen.append)
    assert row.config == {"backend": "cpu"} and row.alternatives == ()
    (failed,) = [each for each in seen if each.state == "failed"]
    assert "WrongResult: out is off by" in failed.reason and failed.config == {"backend": "sdpa"}


def test_what_is_not_a_number_is_wrong(cpu: Gpu) -> None:
    opened = AttentionKernel("attention_backend", "fp32", 32, 1, None, (8, 3), 8, "cpu", None).open()
    (_, truth), _ = opened._truths
    tensors = {name: x.float() for name, x in truth.tensors.items() if name == "out"}
    assert truth.check(tensors) is None
    tensors["out"][0, 0, 0] = torch.nan
    with pytest.raises(WrongResult, match="not finite"):
        truth.check(tensors)


def test_what_a_table_recommends_is_tried_early(cpu: Gpu) -> None:
    h200, key = load_gpu("h200-sxm"), Key("bf16", 64, "global", 32)
    kernel = AttentionKernel("attention_backward", "bf16", 64, 2, None, (32,), 32, "cuda", (9, 0))
    one_pass, two_kernels = (
        next(c for c in kernel.configurations() if c["one_pass"] is whole) for whole in (True, False)
    )
    row = Row(
        key, "modelled", space.trimmed(two_kernels), 1e-4, None, ((space.trimmed(one_pass), 2e-4),),
        "fixed:32x1", 2, None, None, "3.6.0", None, None, "2026-11-21", "a model",
    )  # fmt: skip
    merge_rows(table_path(own_folder(), "h200-sxm", kernel.name), header_of(kernel.name, h200), [row])
    forget()
    asked = Problem(kernel.name, h200, key, 2, parse_workload("fixed:32x1"), None)
    assert recommended(asked, kernel) == [two_kernels, one_pass]
