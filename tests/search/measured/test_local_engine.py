"""This machine's devices: jobs that fail, devices that leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure.failure import CRASH, ERROR, NOT_READY, Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search.measured import local_engine
from hwsearch.search.measured.engine import DEVICE_GONE, Answer
from hwsearch.search.measured.local_engine import Device, LocalEngine, local_devices
from hwsearch.shape import parse_shape
from hwsearch.workload import parse_workload

JOB = Job(
    parse_shape("L1-h64-a1-i64-v64-p64"), parse_workload("fixed:8x1"), "fp32", "inference", "eager", "none"
)
FIRST, SECOND = Device("t4", "cuda", 0, "GPU-1"), Device("t4", "cuda", 1, "GPU-2")


@dataclass
class FakeTimer:
    """Answers as the function says."""

    device: Device
    answer: Callable[[Job, Device], Row | Failure]
    closed: threading.Event = field(default_factory=threading.Event)

    def measure(self, job: Job) -> Row | Failure:
        return self.answer(job, self.device)

    def close(self) -> None:
        self.closed.set()


def engine_of(
    devices: Sequence[Device],
    answer: Callable[[Job, Device], Row | Failure],
    present: Callable[[Device], bool] | None = None,
) -> LocalEngine:
    return LocalEngine(devices, lambda device: FakeTimer(device, answer), present)


def answers(engine: LocalEngine, count: int) -> list[Answer]:
    found = [engine.next(timeout_s=20) for _ in range(count)]
    assert engine.next(timeout_s=0.01) is None
    return [answer for answer in found if answer is not None]


def ok(job: Job, device: Device) -> Row:
    return {"uuid": device.uuid}


def crash(job: Job, device: Device) -> Failure:
    return Failure(CRASH, "boom")


def test_every_job_is_answered_once_on_some_device_of_its_gpu() -> None:
    engine = engine_of([FIRST, SECOND, Device("cpu", "cpu")], ok)
    assert engine.gpus == {"t4", "cpu"} and engine.slots("t4") == 2 and engine.slots("l4") == 0
    for ticket in range(9):
        engine.submit(ticket, "t4" if ticket % 3 else "cpu", JOB)
    found = answers(engine, 9)
    engine.close()
    assert sorted(answer.ticket for answer in found) == list(range(9))
    assert all((answer.row == {"uuid": ""}) == (answer.gpu == "cpu") for answer in found)


def test_devices_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)

    def wait(job: Job, device: Device) -> Row:
        both.wait()
        return {}

    engine = engine_of([FIRST, SECOND], wait)
    engine.submit(0, "t4", JOB)
    engine.submit(1, "t4", JOB)
    assert [answer.failure for answer in answers(engine, 2)] == [None, None]


def test_a_failure_is_the_jobs_and_the_device_goes_on() -> None:
    def fails(job: Job, device: Device) -> Row:
        raise RuntimeError("no such thing")

    engine = engine_of([FIRST], fails, present=lambda device: True)
    for ticket in range(2):
        engine.submit(ticket, "t4", JOB)
    assert [answer.failure for answer in answers(engine, 2)] == [
        Failure(ERROR, "RuntimeError: no such thing")
    ] * 2
    assert engine.gpus == {"t4"}


def test_the_last_device_that_leaves_takes_its_gpu_along() -> None:
    engine = engine_of([FIRST, Device("cpu", "cpu")], crash, present=lambda device: device.gpu == "cpu")
    for ticket in range(3):
        engine.submit(ticket, "t4", JOB)
    found = answers(engine, 3)
    assert engine.gpus == {"cpu"} and engine.slots("t4") == 0
    assert [answer.failure and answer.failure.kind for answer in found] == [DEVICE_GONE] * 3
    engine.submit(3, "t4", JOB)
    assert [answer.failure and answer.failure.kind for answer in answers(engine, 1)] == [DEVICE_GONE]


def test_another_device_of_the_kind_takes_the_job_over() -> None:
    def measure(job: Job, device: Device) -> Row | Failure:
        return Failure(CRASH, "it left") if device == FIRST else {"uuid": device.uuid}

    engine = engine_of([FIRST, SECOND], measure, present=lambda device: device != FIRST)
    for ticket in range(6):
        engine.submit(ticket, "t4", JOB)
    assert all(answer.row == {"uuid": "GPU-2"} for answer in answers(engine, 6))
    assert engine.gpus == {"t4"} and engine.slots("t4") <= 2


def test_a_job_that_takes_devices_along_is_not_tried_on_all() -> None:
    third = Device("t4", "cuda", 2, "GPU-3")
    engine = engine_of([FIRST, SECOND, third], crash, present=lambda device: False)
    engine.submit(0, "t4", JOB)
    (found,) = answers(engine, 1)
    assert found.failure is not None and found.failure.kind == CRASH
    assert engine.slots("t4") == 1


def test_a_device_that_is_not_ready_is_tried_again_and_no_job_is_blamed() -> None:
    hiccups = iter(range(2))

    def measure(job: Job, device: Device) -> Row | Failure:
        return Failure(NOT_READY, "as it started: slow") if next(hiccups, None) is not None else {}

    engine = engine_of([FIRST], measure, present=lambda device: True)
    engine.submit(0, "t4", JOB)
    assert [answer.row for answer in answers(engine, 1)] == [{}] and engine.gpus == {"t4"}


def test_devices_that_stay_unready_leave_one_after_the_other() -> None:
    tried: list[str] = []

    def measure(job: Job, device: Device) -> Row | Failure:
        tried.append(device.uuid)
        raise ModuleNotFoundError("No module named 'torch'")

    engine = engine_of([FIRST, SECOND], measure, present=lambda device: True)
    engine.submit(0, "t4", JOB)
    (found,) = answers(engine, 1)
    assert engine.gpus == frozenset() and sorted(tried) == ["GPU-1"] * 3 + ["GPU-2"] * 3
    assert found.failure == Failure(
        DEVICE_GONE,
        "no device of this machine measures it any more: ModuleNotFoundError: No module named 'torch'",
    )


def test_a_closed_engine_starts_nothing_more() -> None:
    asked: list[int] = []
    running, go_on = threading.Event(), threading.Event()

    def measure(job: Job, device: Device) -> Row:
        asked.append(1)
        running.set()
        go_on.wait(20)
        return {}

    engine = engine_of([FIRST], measure)
    engine.submit(0, "t4", JOB)
    engine.submit(1, "t4", JOB)
    assert running.wait(20)
    engine.close()
    go_on.set()
    answers(engine, 1)
    assert asked == [1]


def test_a_basket_without_any_device_at_hand_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "visible", lambda: [])
    assert local_devices(["l4", "cpu"]) == [Device("cpu", "cpu")]
    with pytest.raises(HwsearchError, match=r"any GPU of the basket \(h200-sxm, l4\); what is at hand: cpu"):
        local_devices(["h200-sxm", "l4"])


def test_a_device_goes_on_with_the_shape_that_its_process_holds() -> None:
    """Two answers are there before the next workload of either shape is asked for."""
    shapes = [replace(JOB, shape=parse_shape(f"L{depth}-h64-a1-i64-v64-p64")) for depth in (1, 2)]
    both = threading.Barrier(2, timeout=20)

    def wait(job: Job, device: Device) -> Row:
        both.wait()
        return {"uuid": device.uuid, "layers": job.shape.num_hidden_layers}

    engine = engine_of([FIRST, SECOND], wait)
    seen: set[tuple[str, int]] = set()
    for turn in range(8):
        order = shapes[:: -1 if turn % 2 else 1]
        for ticket, job in enumerate(order):
            engine.submit(ticket, "t4", replace(job, workload=parse_workload(f"fixed:8x{1 + turn}")))
        seen |= {(answer.row["uuid"], answer.row["layers"]) for answer in answers(engine, 2) if answer.row}
    assert len(seen) == 2 and {uuid for uuid, _ in seen} == {"GPU-1", "GPU-2"}


def test_a_device_that_waits_for_its_shape_takes_another_one_meanwhile() -> None:
    asked: list[tuple[str, int]] = []

    def note(job: Job, device: Device) -> Row:
        asked.append((device.uuid, job.shape.num_hidden_layers))
        return {}

    engine = engine_of([FIRST], note)
    for ticket, depth in enumerate((1, 2, 1)):
        shape = parse_shape(f"L{depth}-h64-a1-i64-v64-p64")
        engine.submit(ticket, "t4", replace(JOB, shape=shape))
        answers(engine, 1)
    assert [depth for _, depth in asked] == [1, 2, 1]


def test_timers_are_closed_with_the_engine_and_where_a_device_leaves() -> None:
    timers: list[FakeTimer] = []

    def timer_of(device: Device) -> FakeTimer:
        timers.append(FakeTimer(device, crash if device == FIRST else ok))
        return timers[-1]

    engine = LocalEngine([FIRST, Device("cpu", "cpu")], timer_of, present=lambda device: device != FIRST)
    engine.submit(0, "t4", JOB)
    answers(engine, 1)
    closed = {timer.device.gpu: timer.closed for timer in timers}
    assert closed["t4"].wait(20) and not closed["cpu"].is_set()
    engine.close()
    assert closed["cpu"].wait(20)


def test_devices_share_the_jobs_of_one_shape_where_more_than_one_is_asked_for() -> None:
    both = threading.Barrier(2, timeout=20)

    def wait(job: Job, device: Device) -> Row:
        if job.workload.batch_size > 1:
            both.wait()
        return {}

    engine = engine_of([FIRST, SECOND], wait)
    engine.submit(0, "t4", JOB)
    answers(engine, 1)
    for ticket in (1, 2):
        engine.submit(ticket, "t4", replace(JOB, workload=parse_workload("fixed:8x2")))
    assert [answer.failure for answer in answers(engine, 2)] == [None, None]
