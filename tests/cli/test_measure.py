"""`hwsearch measure`: one shape on the CPU for real, its table and its row; bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hwsearch.cli.measure
import hwsearch.measure.device_at_hand
from hwsearch.cli import main
from hwsearch.gpu.catalog import load_gpu
from hwsearch.measure.failure import Failure
from hwsearch.measure.largest_batch import LargestBatch

SHAPE = "L2-h64-a2-i96-v512"
# As a bench on a T4 would answer.
ROW: dict[str, Any] = {
    "key": "k", "shape": SHAPE, "shape_hash": "h", "workload": "fixed:32x4", "tokens": 128, "dtype": "fp16",
    "mode": "inference", "runtime": "graph", "head": "none", "forced": None, "flops": 10**9,
    "source": "measured", "gpu": "t4", "device": "Tesla T4", "uuid": "GPU-1",
    "backend": {"global": "efficient", "local": "triton"},
    "tuned": {"global": None, "local": {"attention_forward": {"state": "exact", "gpu": "t4", "config": {}}}},
    "p50_s": 0.0005, "p20_s": 0.0004, "p80_s": 0.0006, "host_s": 1e-5, "peak_bytes": 2**20,
    "reserved_bytes": 2**21, "threads": None, "n": 12, "error": 0.02, "spread": 0.004, "joules": 0.035,
    "sm_mhz": 1590, "memory_mhz": 5000, "celsius": 60, "watts": 69.5, "limit_watts": 70.0, "capped": 0.5,
    "taint": None, "tries": 1, "watch": None, "versions": {}, "note": None, "at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def t4_at_hand(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """A machine with a T4 that answers with `answer`; the jobs that it was asked for."""

    def at_hand(answer: object) -> list[Any]:
        asked: list[Any] = []
        device = hwsearch.measure.device_at_hand.DeviceAtHand("cuda", 0, "Tesla T4", load_gpu("t4"), "fp16")
        monkeypatch.setattr(hwsearch.cli.measure, "device_at_hand", lambda name: device)
        monkeypatch.setattr(hwsearch.cli.measure, "measure_job", lambda job, **_: asked.append(job) or answer)
        return asked

    return at_hand


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["measure", SHAPE, "--workload", "fixed:32x4", *arguments]) == 0
    return capsys.readouterr().out


def test_a_shape_is_timed_on_the_cpu_and_compared(cli: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = ("measure", SHAPE, "--workload", "normal:24,8,4..48x6", "--device", "cpu", "--precision", "50")
    done = cli(*words, "--out", "rows.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert answer["row"] == row and row["gpu"] == "cpu" and row["dtype"] == "fp32"
    assert row["runtime"] == "eager" and row["p50_s"] > 0
    assert answer["ratio"] == pytest.approx(row["p50_s"] / answer["prediction"]["latency_s"])


def test_the_table_holds_figures_spread_and_what_the_card_was_like(
    t4_at_hand: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = t4_at_hand(ROW)
    text = measured(capsys, "--energy")
    assert (asked[0].dtype, asked[0].runtime, asked[0].head) == ("fp16", "graph", "none")
    for line in (
        "on Tesla T4 (t4)",
        "0.500 ms",
        "256,000",  # tokens a second
        "0.2734 mJ",
        "samples     12: 20 % below 0.400 ms, 20 % above 0.600 ms; second half against first 0.4 %",
        "the mean is known to 2 % with 95 % confidence, 1 % were asked for",
        "host        0.010 ms of one call",
        "attention   efficient (global), triton (local)",
        "local attention_forward: tuned table: exact of t4",
        "SM 1590 MHz, memory 5000 MHz, 60 C, 70 W, limit 70 W, held back by it 50% of the time",
        "90 % interval",
    ):
        assert line in text, text
    assert "TAINTED" not in text and "note" not in text


def test_what_spoils_a_measurement_stands_in_the_table(
    t4_at_hand: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    t4_at_hand({
        **ROW, "taint": "thermal slowdown for 3 ms", "tries": 3, "runtime": "eager", "uuid": None,
        "note": "no CUDA graph, run eagerly: it waits", "watch": "NVML failed", "peak_bytes": None,
        "sm_mhz": None, "host_s": None, "joules": None,
    })  # fmt: skip
    text = measured(capsys)
    assert "TAINTED     thermal slowdown for 3 ms (3 tries, the last is shown)" in text
    assert "note        no CUDA graph, run eagerly: it waits" in text
    assert "NVML failed" in text and "energy" not in text and "host " not in text
    t4_at_hand({**ROW, "joules": None})
    assert [line.split() for line in measured(capsys, "--energy").splitlines() if "energy" in line] == [
        ["energy", "-", "-"],
        ["energy", "a", "token", "-", "-"],
    ]


def test_training_runs_as_the_training_loop_does(t4_at_hand: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked = t4_at_hand({**ROW, "mode": "training", "runtime": "eager", "head": "mlm"})
    measured(capsys, "--mode", "training")
    assert (asked[0].mode, asked[0].runtime, asked[0].head) == ("training", "eager", "mlm")


def test_the_largest_batch_stands_beside_the_predicted_one(
    t4_at_hand: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    t4_at_hand(ROW)
    limits: list[int | None] = []

    def found(job: object, *, memory_bytes: int | None, **_: object) -> LargestBatch:
        limits.append(memory_bytes)
        return LargestBatch(96, 3072, 2**30, 97, Failure("out of memory", "no more"), 11)

    monkeypatch.setattr(hwsearch.cli.measure, "largest_batch", found)
    text = measured(capsys, "--largest-batch")
    assert "largest batch: 96 sequences, 3,072 tokens, peak 1.000 GiB; predicted" in text
    assert "97 sequences: out of memory: no more" in text
    answer = json.loads(measured(capsys, "--largest-batch", "--memory", "0.5", "--json"))
    assert answer["largest_batch"]["sequences"] == 96 and answer["largest_batch"]["predicted"] > 0
    assert limits == [None, 2**29]


def test_a_failure_is_one_message_and_a_row_without_times(
    t4_at_hand: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t4_at_hand(Failure("out of memory", "OutOfMemoryError: CUDA out of memory."))
    out = tmp_path / "rows.jsonl"
    assert main(["measure", SHAPE, "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"hwsearch: {SHAPE} on Tesla T4 (cuda:0, t4): out of memory: OutOfMemoryError: CUDA out of memory.\n"
    )
    row = json.loads(out.read_text())
    assert (row["source"], row["failure"], row["gpu"]) == ("failed", "out of memory", "t4")


def test_a_full_disk_hides_neither_figures_nor_a_failure(
    t4_at_hand: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    t4_at_hand(ROW)
    assert main(["measure", SHAPE, "--json", "--out", "/dev/full"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["row"] == ROW and "/dev/full: cannot write" in captured.err
    t4_at_hand(Failure("crash", "killed by SIGSEGV"))
    assert main(["measure", SHAPE, "--out", "/dev/full"]) == 2
    assert "crash: killed by SIGSEGV; /dev/full: cannot write" in capsys.readouterr().err


def test_the_largest_batch_is_found_although_the_asked_one_is_too_large(
    t4_at_hand: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = LargestBatch(48, 1536, 2**30, 49, Failure("out of memory", "no more"), 7)
    monkeypatch.setattr(hwsearch.cli.measure, "largest_batch", lambda *_, **__: largest)
    t4_at_hand(Failure("out of memory", "too large"))
    assert main(["measure", SHAPE, "--largest-batch"]) == 2
    captured = capsys.readouterr()
    assert "largest batch: 48 sequences" in captured.out and "out of memory: too large" in captured.err
    assert main(["measure", SHAPE, "--largest-batch", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["row"]["failure"] == "out of memory" and answer["largest_batch"]["sequences"] == 48
    t4_at_hand(Failure("error", "no such backend"))
    assert main(["measure", SHAPE, "--largest-batch"]) == 2
    assert capsys.readouterr().out == ""


def test_ctrl_c_in_the_search_for_the_largest_batch_keeps_what_was_measured(
    t4_at_hand: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hwsearch.cli.measure, "largest_batch", interrupted)
    t4_at_hand(ROW)
    assert main(["measure", SHAPE, "--largest-batch", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["row"] == ROW


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu0"], "device: 'gpu0'; accepted: cpu, cuda, cuda:1"),
        (["--precision", "0"], "--precision: 0; accepted: above 0, up to 100"),
        (["--precision", "nan"], "--precision: nan; accepted: above 0, up to 100"),
        (["--timeout", "-1"], "--timeout: -1; accepted: above 0"),
        (["--memory", "1"], "--memory is for --largest-batch"),
        (["--workload", "fixed:0x4"], "length 0; accepted: 1 to"),
        (["--out", "."], "cannot write: is a folder"),
        (["--out", ""], "cannot write: is a folder"),  # of a variable that is not set
        (["--workload", ""], "workload"),
        (
            ["--device", "cpu", "--backend", "flash3"],
            "backend: 'flash3' cannot be measured; accepted: triton",
        ),
        (["--device", "cpu", "--mode", "training", "--head", "none"], "head: none has no loss to train on"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert main(["measure", SHAPE, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("hwsearch: ") and captured.out == ""


def test_shapes_that_cannot_be_built_and_dtypes_that_the_gpu_lacks(
    t4_at_hand: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    t4_at_hand(ROW)
    assert main(["measure", "bert-base"]) == 2
    assert "architecture: bert cannot be built" in capsys.readouterr().err
    assert main(["measure", SHAPE, "--dtype", "bf16"]) == 2
    assert "t4 has no bf16" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_named(cli: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    done = cli("measure", SHAPE, "--device", "cuda:63")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    has = "GPUs" if torch.cuda.is_available() else "no GPU, or a torch without CUDA"
    assert "device: cuda:63: this machine has" in done.stderr and has in done.stderr
