"""Which jobs share a process, and what a failure in it costs the next ones."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure.encoder import EncoderTimer
from hwsearch.measure.failure import CRASH, ERROR, OUT_OF_MEMORY, TIME_OUT, Failure
from hwsearch.measure.job import Job
from hwsearch.shape import parse_shape
from hwsearch.workload import Workload, parse_workload

# Far beyond what any of these takes.
PATIENCE = 120.0
JOB = Job(
    parse_shape("L3-h64-a2-i96-v512"), parse_workload("fixed:32x1"), "fp16", "inference", "graph", "none"
)


def on(sequences: int, job: Job = JOB) -> Job:
    return replace(job, workload=parse_workload(f"fixed:32x{sequences}"))


@pytest.fixture
def timer(benches: Any) -> Iterator[EncoderTimer]:
    with EncoderTimer(bench=benches.Troubles) as timer:
        yield timer


def row(timer: EncoderTimer, job: Job) -> dict[str, Any]:
    found = timer.measure(job, timeout_s=PATIENCE)
    assert not isinstance(found, Failure), found
    return found


def test_workloads_of_a_shape_share_a_process(benches: Any) -> None:
    with EncoderTimer(index=1, bench=benches.Bench) as timer:
        rows = [row(timer, on(sequences)) for sequences in (8, 1, 3)]
        shared = [timer.peak_of(on(sequences), None) for sequences in (1, 2)]
    assert len({each["process"] for each in rows}) == 1
    assert [each["tokens"] for each in rows] == [256, 32, 96]
    assert len({each["key"] for each in rows}) == 3 and shared == [320, 640]
    assert all(each["asked"][:2] == ["cuda", 1] for each in rows)


@pytest.mark.parametrize(
    "other",
    [
        {"shape": parse_shape("L4-h64-a2-i96-v512")},
        {"dtype": "bf16"},
        {"mode": "training", "head": "mlm"},
        {"runtime": "eager"},
        {"runtime": "compile"},
        {"head": "mlm"},
        {"backend": "sdpa"},
    ],
    ids=str,
)
def test_whatever_else_differs_has_a_process_of_its_own(timer: EncoderTimer, other: Any) -> None:
    processes = [row(timer, job)["process"] for job in (JOB, replace(JOB, **other), JOB)]
    assert len(set(processes)) == 3


@pytest.mark.parametrize(
    ("trouble", "timeout_s", "kind"),
    [
        ("ABORT", PATIENCE, CRASH),
        ("HANG", 2.0, TIME_OUT),
        ("NO_MEMORY", PATIENCE, OUT_OF_MEMORY),
        ("ERROR", PATIENCE, ERROR),
        ("LEAVE", PATIENCE, ERROR),
    ],
)
def test_a_failure_costs_its_job_alone_and_ends_the_process(
    timer: EncoderTimer, benches: Any, trouble: str, timeout_s: float, kind: str
) -> None:
    first = row(timer, JOB)
    lost = timer.measure(on(getattr(benches.Troubles, trouble)), timeout_s=timeout_s)
    assert isinstance(lost, Failure) and lost.kind == kind
    after, last = row(timer, JOB), row(timer, JOB)
    assert first["process"] != after["process"] == last["process"]
    assert not Path("/proc", str(first["process"])).exists()


def test_without_a_graph_each_workload_is_tried_anew(benches: Any) -> None:
    with EncoderTimer(bench=benches.Uncapturable) as timer:
        rows = [row(timer, on(sequences)) for sequences in (1, 2)]
    assert all(each["runtime"] == "eager" and not each["spoiled"] for each in rows)
    assert all("stream is capturing" in each["note"] for each in rows)
    assert rows[0]["process"] != rows[1]["process"]


@pytest.mark.parametrize("step", range(3))
def test_what_an_earlier_workload_left_behind_fails_no_job(benches: Any, step: int) -> None:
    with EncoderTimer(index=step, bench=benches.Tires) as timer:
        rows = [row(timer, on(sequences)) for sequences in (1, 2, 3)]
    assert [(each["runtime"], each["note"]) for each in rows] == [("graph", None)] * 3
    assert len({each["process"] for each in rows}) == 3


def test_a_process_that_is_killed_between_two_jobs_is_replaced(timer: EncoderTimer) -> None:
    first = row(timer, JOB)["process"]
    os.kill(first, signal.SIGKILL)
    assert row(timer, on(1))["process"] != first


def test_a_closed_timer_leaves_no_process_and_may_go_on(timer: EncoderTimer) -> None:
    first = row(timer, JOB)["process"]
    timer.close()
    timer.close()
    assert not Path("/proc", str(first)).exists()
    assert row(timer, JOB)["process"] != first


def test_a_job_that_cannot_be_run_is_refused_and_the_process_stays(timer: EncoderTimer) -> None:
    first = row(timer, JOB)["process"]
    wrong = replace(JOB)
    object.__setattr__(wrong, "workload", Workload("w", (0,), 1))
    with pytest.raises(HwsearchError, match="length 0"):
        timer.measure(wrong)
    assert row(timer, JOB)["process"] == first


def test_a_process_that_waits_keeps_no_core_busy(timer: EncoderTimer) -> None:
    stat = Path("/proc", str(row(timer, JOB)["process"]), "stat")
    if not stat.exists():
        pytest.skip("no /proc")

    def ticks() -> int:
        return sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))

    before = ticks()
    time.sleep(0.5)
    assert ticks() - before <= 5  # of 50
