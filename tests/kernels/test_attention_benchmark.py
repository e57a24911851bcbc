"""benchmarks/attention.py: what it counts, what it judges, and that one call runs on a CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention import _check_profile
from attention_batch import make_batch, truth
from attention_cases import BLOCK, LOCAL_WINDOW, WORKLOADS, Case, cases, target_cases
from attention_methods import sdpa
from attention_report import TARGETS, print_report, ratio
from attention_run import run
from attention_sweep import try_all
from attention_table import backend_rows

from hwsearch.errors import HwsearchError
from hwsearch.kernels.tuned import Key

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("window", [None, 8, 40])
def test_useful_flops_count_visible_pairs_alone(window):
    case = Case("smoke", 3, 32, window)
    pairs = sum(
        1 for s in case.lengths for i in range(s) for j in range(s) if window is None or abs(i - j) <= window
    )
    assert case.useful_flops("forward") == 4 * pairs * 3 * 32
    assert case.useful_flops("backward") == 2.5 * case.useful_flops("forward")


def test_batches_are_whole_blocks_of_the_lengths_that_were_asked_for():
    for workload in WORKLOADS:
        case = Case(workload, 16, 64, None)
        assert case.tokens % BLOCK == 0
        assert 100_000 < case.tokens < 170_000
    tiny = Case("tiny", 16, 64, None)
    assert len(tiny.lengths) == 4096
    assert tiny.longest == 64


def test_target_cases_come_first():
    first, rest = cases()[: target_cases()], cases()[target_cases() :]
    assert {(c.head_size, c.heads) for c in first} == {(64, 16)}
    assert {(c.workload, c.window) for c in first} == {
        (w, x) for w in WORKLOADS for x in (None, LOCAL_WINDOW)
    }
    assert not any((c.head_size, c.heads) == (64, 16) for c in rest)


@pytest.mark.parametrize(("workload", "window"), [("smoke", 8), ("smoke", None), ("smoke-equal", None)])
def test_truth_agrees_with_another_backend_and_notices_what_is_wrong(workload, window):
    batch = make_batch(Case(workload, 2, 32, window), "cpu")
    true, prepared = truth(batch, with_rope=False), sdpa(batch)
    out = prepared.call()
    assert 0 < true.error({"out": prepared.packed(out)}) < 1e-2
    gradients = torch.autograd.grad(out, prepared.leaves, prepared.dout)
    assert true.error(dict(zip(("dq", "dk", "dv"), map(prepared.packed, gradients), strict=True))) < 1e-2
    wrong = prepared.packed(out).clone()
    wrong[-1] *= 2
    assert true.error({"out": wrong}) > 1e-2
    wrong[0, 0, 0] = math.nan
    assert math.isnan(true.error({"out": wrong}))


def row(workload, window, direction, method, seconds, head_size=64):
    case = {"workload": workload, "heads": 16, "head_size": head_size, "window": window}
    return {**case, "pass": direction, "method": method, "seconds": seconds, "tflops": 1.0, "error": 1e-3}


def results(rows):
    return {
        "rows": rows,
        "sweep": [],
        "ceilings": {},
        "jobs": {"a": "done", "b": "no time left"},
        "machine": {},
    }


def test_targets_are_judged_by_their_worst_case(capsys):
    rows = [
        row("2048", None, "forward", "triton", 1.0), row("2048", None, "forward", "torch_flash", 1.3),
        row("8192", None, "forward", "triton", 1.0), row("8192", None, "forward", "torch_flash", 1.2),
        row("tiny", None, "backward", "triton", 1.0), row("tiny", None, "backward", "torch_flash", 2.5),
    ]  # fmt: skip
    print_report(results(rows))
    lines = capsys.readouterr().out.splitlines()
    judged = [line for line in lines if line.startswith("d64 global, 2k and longer")]
    assert judged[0].endswith("1.20  no (8192 h16 d64 global)")
    assert judged[1].endswith("unmeasured")
    assert any(line.startswith("d64 thousands") and "2.50  yes" in line for line in lines)
    assert any(line.startswith("not done: 1: b (no time left)") for line in lines)


def test_every_target_names_cases_that_are_timed():
    for target in TARGETS:
        held = [c for c in cases() if target.holds(vars(c) | {"window": c.window})]
        assert held, target.name


def test_ratio_is_above_one_where_ours_is_faster():
    pair = {m: row("512", None, "forward", m, s) for m, s in (("triton", 1.0), ("flex", 3.0))}
    assert ratio(pair, "triton", "flex") == 3
    assert ratio(pair, "triton", "cudnn") is None


def test_the_tables_of_backends_sum_the_cases_of_a_class():
    rows = [row(w, None, d, m, s) for w in ("512", "mix-512")
            for m, d, s in (("triton", "forward", 2.0), ("triton", "backward", 1.0),
                            ("torch_flash", "forward", 1.0), ("torch_flash", "backward", 3.0))]  # fmt: skip
    rows += [row("512", None, "forward", "flex", 9.0)]
    # A window of 64 hides nothing of 64 tokens.
    rows += [row("64", LOCAL_WINDOW, "forward", "triton", 5.0)]
    machine = {"date": "2026-11-21 10:00 UTC", "torch": "2.11.0", "triton": "3.6.0", "driver": "unknown"}
    found = backend_rows(results(rows) | {"machine": machine})
    (forward,), (training,) = found["attention_backend"], found["attention_backend_training"]
    assert forward.key == training.key == Key("bf16", 64, "global", 512)
    assert (forward.config, forward.seconds, forward.default_seconds) == (
        {"backend": "torch_flash"}, 2.0, 4.0
    )  # fmt: skip
    assert forward.alternatives == (({"backend": "triton"}, 4.0),)
    assert (training.config, training.seconds) == ({"backend": "triton"}, 6.0)
    assert forward.workload == "fixed:512x256 + normal:256,64,32..512x512"
    assert (forward.date, forward.driver, forward.heads) == ("2026-11-21", None, 16)


def test_of_several_counts_of_heads_the_first_makes_the_table():
    rows = [
        row("512", None, "forward", "triton", 1.0),
        row("512", None, "forward", "triton", 7.0) | {"heads": 12},
    ]
    machine = {"date": "2026-11-21 10:00 UTC", "torch": "2.11.0", "triton": "3.6.0", "driver": "580"}
    (found,) = backend_rows(results(rows) | {"machine": machine})["attention_backend"]
    assert (found.seconds, found.heads) == (1.0, 16)


def test_one_call_runs_everything_on_a_cpu(tmp_path):
    """Ours under the interpreter, right; peers that need a GPU as rows with their reasons; then a call that
    resumes has nothing left to do."""
    out = tmp_path / "attention.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "attention.py"),
        "--smoke",
        "--only",
        "equal",
        "--without",
        "fa4,flash_attn",
        "--out",
        str(out),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert first.returncode == 0, first.stderr
    assert "reached" in first.stdout
    found = json.loads(out.read_text())
    assert set(found["jobs"].values()) == {"done"}
    timed = {(r["method"], r["pass"]) for r in found["rows"] if "seconds" in r}
    assert {(m, p) for m in ("triton", "triton+rope") for p in ("forward", "backward")} <= timed
    assert all(r["error"] < 1e-2 for r in found["rows"] if "seconds" in r and r["pass"] != "prepare")
    assert all("reason" in r for r in found["rows"] if r["method"] == "fa3")
    assert not {"fa4", "flash_attn"} & {r["method"] for r in found["rows"]}
    run(out, 60, smoke=True, sweep=False, only="equal", resume=True)
    with pytest.raises(HwsearchError, match="--without: 'flax'; accepted: triton, "):
        run(out, 60, smoke=True, sweep=False, only="equal", resume=True, without=["flax"])
    assert json.loads(out.read_text())["rows"] == found["rows"]


def test_a_table_is_written_for_the_gpu_at_hand_alone():
    _check_profile("h200-sxm", "NVIDIA H200")
    with pytest.raises(HwsearchError, match=r"^--gpu: h200-sxm is NVIDIA H200, and this is NVIDIA L4$"):
        _check_profile("h200-sxm", "NVIDIA L4")
    with pytest.raises(HwsearchError, match="no GPU profile is called 'h2000'"):
        _check_profile("h2000", "NVIDIA H200")


def test_a_run_in_which_nothing_is_left_to_try_goes_on_to_its_report():
    assert try_all([], "cuda", 1.0, workers=4) == {}
