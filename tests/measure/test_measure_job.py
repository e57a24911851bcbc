"""One encoder, timed in a process that may die of it; what a row says."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure.encoder import measure_job
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.largest_batch import largest_batch, workload_like
from hwsearch.measure.row import add_row, failed_row
from hwsearch.shape import parse_shape
from hwsearch.workload import Workload, parse_workload

# Far beyond what any of these takes.
PATIENCE = 120.0
JOB = Job(
    parse_shape("L3-h64-a2-i96-v512"), parse_workload("fixed:32x3"), "fp32", "inference", "graph", "none"
)


def test_a_row_says_what_was_asked_and_what_was_found(benches: Any) -> None:
    row = measure_job(JOB, index=1, precision=0.5, energy=True, timeout_s=PATIENCE, bench=benches.Bench)
    assert isinstance(row, dict)
    expected = {
        "key": JOB.key,
        "shape": "L3-h64-a2-i96-v512",
        "shape_hash": JOB.shape.hash(),
        "workload": "fixed:32x3",
        "tokens": 96,
        "dtype": "fp32",
        "mode": "inference",
        "runtime": "graph",
        "head": "none",
        "source": "measured",
        "p50_s": 0.5,
        "asked": ["cuda", 1, 0.5, True],
        "note": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("bench", "timeout_s", "failure", "reason"),
    [
        ("Aborts", PATIENCE, "crash", "SIGABRT"),
        ("Hangs", 1.0, "time-out", "no answer within"),
        ("RunsOutOfMemory", PATIENCE, "out of memory", "Tried to allocate 20.00 GiB"),
        ("TooLargeToCapture", PATIENCE, "out of memory", "CUDA out of memory"),
        ("ReadsOutside", PATIENCE, "crash", "the CUDA context is lost"),
    ],
)
def test_what_goes_wrong_costs_one_job(
    benches: Any, bench: str, timeout_s: float, failure: str, reason: str
) -> None:
    lost = measure_job(JOB, timeout_s=timeout_s, bench=getattr(benches, bench))
    assert isinstance(lost, Failure)
    assert lost.kind == failure and reason in lost.reason
    row = failed_row(JOB, "t4", lost)
    assert (row["source"], row["failure"], row["key"]) == ("failed", failure, JOB.key)
    assert "p50_s" not in row
    assert isinstance(measure_job(JOB, timeout_s=PATIENCE, bench=benches.Bench), dict)


def test_without_a_graph_it_runs_eagerly_in_a_new_process_and_says_so(benches: Any) -> None:
    row = measure_job(JOB, timeout_s=PATIENCE, bench=benches.Uncapturable)
    assert isinstance(row, dict)
    assert row["runtime"] == "eager" and row["key"] == JOB.key and row["spoiled"] is False
    assert row["note"].startswith("no CUDA graph, run eagerly: error: RuntimeError: CUDA error")
    eager = measure_job(replace(JOB, runtime="eager"), timeout_s=PATIENCE, bench=benches.Uncapturable)
    assert isinstance(eager, dict) and eager["note"] is None


def test_the_largest_batch_is_found_to_one_percent(benches: Any) -> None:
    told: list[str] = []
    found = largest_batch(
        JOB, device="cpu", timeout_s=PATIENCE, report=told.append, bench=benches.Bench
    )  # 1,000 tokens are 31 sequences
    assert (found.sequences, found.tokens, found.peak_bytes) == (31, 992, 9920)
    assert found.next_sequences == 32 and found.next_failure is not None
    assert found.next_failure.kind == "out of memory"
    assert found.tried == len(told)


def test_batches_may_kill_their_processes(benches: Any) -> None:
    job = replace(JOB, workload=parse_workload("fixed:400x3"))
    found = largest_batch(job, device="cpu", timeout_s=PATIENCE, bench=benches.Aborts)
    assert (found.sequences, found.next_sequences) == (2, 3)
    assert found.next_failure is not None and "SIGKILL" in found.next_failure.reason
    too_long = replace(JOB, workload=parse_workload("fixed:2000x2"))
    none = largest_batch(too_long, device="cpu", timeout_s=PATIENCE, bench=benches.Bench)
    assert (none.sequences, none.tokens, none.peak_bytes, none.next_sequences) == (0, 0, None, 1)


def test_what_is_not_of_the_batchs_size_is_not_searched(benches: Any) -> None:
    found = largest_batch(JOB, device="cpu", timeout_s=PATIENCE, bench=benches.Refuses)
    assert (found.sequences, found.next_sequences, found.tried) == (0, 3, 1)
    assert found.next_failure is not None and "not here" in found.next_failure.reason


def test_a_batch_that_does_not_fit_has_failed_in_a_process_of_its_own(benches: Any) -> None:
    """Where a process keeps what earlier batches took, as a heap in pieces does."""
    found = largest_batch(JOB, device="cpu", timeout_s=PATIENCE, bench=benches.Hoards)
    assert (found.sequences, found.next_sequences) == (31, 32)


def test_a_larger_workload_keeps_the_mix() -> None:
    mix = Workload("mix", (10, 40, 20, 30), 40)
    assert workload_like(mix, 4).lengths == mix.lengths
    assert workload_like(mix, 10).lengths == mix.lengths * 2 + (20, 40)
    assert sorted(workload_like(mix, 2).lengths) == [20, 40]
    assert len(workload_like(mix, 7).lengths) == 7
    assert workload_like(mix, 0).tokens == 0


def test_rows_are_lines_even_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    add_row(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "to')
    add_row(path, {"a": 3})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a": 2, "to', '{"a": 3}']
    with pytest.raises(HwsearchError, match="cannot write"):
        add_row(tmp_path, {})


def test_a_row_goes_into_a_pipe_and_a_full_disk_is_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    add_row(pipe, {"a": 1})
    assert os.read(reader, 100) == b'{"a": 1}\n'
    os.close(reader)
    with pytest.raises(HwsearchError, match="/dev/full: cannot write: No space"):
        add_row(Path("/dev/full"), {"a": 1})


def test_a_cpu_runs_its_batches_without_a_graph(benches: Any) -> None:
    found = largest_batch(JOB, device="cpu", timeout_s=PATIENCE, bench=benches.RefusesGraphs)
    assert found.sequences == 31
