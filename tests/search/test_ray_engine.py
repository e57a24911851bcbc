"""A real Ray cluster of several nodes on this machine; what measures there is fake."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure.failure import CRASH
from hwsearch.measure.job import Job
from hwsearch.search.engine import DEVICE_GONE, Answer
from hwsearch.search.ray_engine import RayEngine
from hwsearch.search.ray_pool import Patience
from hwsearch.shape import parse_shape
from hwsearch.workload import Workload

HERE = Path(__file__).parent
# Far beyond what anything here takes.
PATIENCE = 90.0
QUICK = Patience(gather=PATIENCE, gone=4.0, hang=2.0)
# Ray would take a third of the machine's memory for objects; ours are some bytes.
OBJECTS = 80 << 20

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def work() -> Iterator[Any]:
    sys.path.insert(0, str(HERE))  # a child finds what its parent finds
    yield importlib.import_module("ray_work")
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that says it has two T4 and an L4; tests add nodes and take them away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # the nodes find what we find
        from ray.cluster_utils import Cluster

        head = {
            "num_cpus": 0,
            "num_gpus": 3,
            "resources": {"hw:t4": 2, "hw:l4": 1},
            "include_dashboard": False,
            "object_store_memory": OBJECTS,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def node(cluster: Any, **gpus: int) -> Any:
    resources = {f"hw:{gpu}": count for gpu, count in gpus.items()}
    return cluster.add_node(
        num_cpus=0, num_gpus=sum(gpus.values()), resources=resources, object_store_memory=OBJECTS
    )


Start = Callable[..., RayEngine]


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def start(cluster: Any, work: Any, notices: list[str]) -> Iterator[Start]:
    engines: list[RayEngine] = []

    def start(*gpus: str) -> RayEngine:
        engine = RayEngine(
            gpus,
            address=cluster.address,
            precision=0.01,
            timeout_s=2.0,
            warn=lambda m: (print(m), notices.append(m)),
            worker=work.FakeWorker,
            patience=QUICK,
        )
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()


def job(notes: Path, depth: int = 4) -> Job:
    """The fake worker leaves a line in the file that the workload is named after."""
    shape = parse_shape(f"L{depth}-h64-a1-i128")
    return Job(shape, Workload(str(notes), (16,), 16), "fp32", "inference", "eager", "none")


def answers(engine: RayEngine, count: int) -> dict[int, Answer]:
    """So many answers by ticket; each ticket has one."""
    found: dict[int, Answer] = {}
    stop = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < stop, f"only {sorted(found)}"
        if (answer := engine.next(0.5)) is not None:
            assert answer.ticket not in found
            found[answer.ticket] = answer
    return found


def row(answer: Answer) -> dict[str, Any]:
    assert answer.row is not None, answer.failure
    return answer.row


def wait_until(condition: Callable[[], object]) -> None:
    stop = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.05)


def test_each_gpu_answers_what_it_is_asked_one_job_at_a_time(start: Start, tmp_path: Path) -> None:
    engine = start("t4", "l4", "a10")
    assert engine.gpus == {"t4", "l4"}  # no a10 there
    wait_until(lambda: engine.next(0.1) or engine.slots("t4") == 2)
    asked = {ticket: "l4" if ticket % 4 == 0 else "t4" for ticket in range(24)}
    for ticket, gpu in asked.items():
        engine.submit(ticket, gpu, job(tmp_path / str(ticket)))
    engine.submit(99, "a10", job(tmp_path / "99"))
    found = answers(engine, 25)
    assert found[99].failure is not None and found[99].failure.kind == DEVICE_GONE
    rows = {ticket: row(found[ticket]) for ticket in asked}
    assert {ticket: row["gpu"] for ticket, row in rows.items()} == asked
    assert (engine.slots("l4"), engine.slots("a10")) == (1, 0)
    workers: dict[int, list[tuple[float, float]]] = {}
    for each in rows.values():
        workers.setdefault(each["worker"], []).append((each["begin"], each["end"]))
    assert len(workers) == 3
    for turns in map(sorted, workers.values()):
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(turns))
    assert engine.next(0.1) is None


def test_a_lost_worker_costs_a_try_and_a_poisonous_job_three(
    start: Start, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    engine = start("t4")
    engine.submit(1, "t4", job(tmp_path / "1", work.CRASH_ONCE))
    engine.submit(2, "t4", job(tmp_path / "2", work.CRASH))
    engine.submit(3, "t4", job(tmp_path / "3", work.RAISE))
    engine.submit(4, "t4", job(tmp_path / "4"))
    found = answers(engine, 4)
    assert row(found[1])["gpu"] == row(found[4])["gpu"] == "t4"
    assert len((tmp_path / "1").read_text().splitlines()) == 2
    assert found[2].failure is not None and found[2].failure.kind == CRASH
    assert len((tmp_path / "2").read_text().splitlines()) == 3
    assert found[3].failure is not None and found[3].failure.reason == "ValueError: no such kernel"
    assert any("is lost" in notice for notice in notices)


def test_a_node_that_dies_in_mid_run_costs_nothing_where_others_are_left(
    start: Start, cluster: Any, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    engine = start("t4")
    late = node(cluster, t4=1, l4=1)  # a node may come later
    wait_until(lambda: engine.next(0.1) or engine.slots("t4") == 3)
    for ticket in range(6):
        engine.submit(ticket, "t4", job(tmp_path / str(ticket), work.SLOW))
    wait_until(lambda: engine.next(0.1) or len(list(tmp_path.iterdir())) >= 3)
    cluster.remove_node(late, allow_graceful=False)
    found = answers(engine, 6)
    assert all(row(answer)["gpu"] == "t4" for answer in found.values())
    tries = [len((tmp_path / str(ticket)).read_text().splitlines()) for ticket in range(6)]
    assert sorted(tries) == [1, 1, 1, 1, 1, 2]
    assert engine.slots("t4") == 2 and any("is lost" in notice for notice in notices)


def test_a_gpu_whose_last_device_goes_is_gone(start: Start, cluster: Any, work: Any, tmp_path: Path) -> None:
    only = node(cluster, a2=1)
    engine = start("a2", "t4")
    for ticket in range(3):
        engine.submit(ticket, "a2", job(tmp_path / str(ticket), work.SLOW))
    engine.submit(3, "t4", job(tmp_path / "3"))
    wait_until(lambda: (tmp_path / "0").exists() or engine.next(0.1))
    cluster.remove_node(only, allow_graceful=False)
    found = answers(engine, 4)
    for ticket in range(3):
        failure = found[ticket].failure
        assert failure is not None and failure.kind == DEVICE_GONE
    assert row(found[3])["gpu"] == "t4" and engine.gpus == {"t4"}
    engine.submit(5, "a2", job(tmp_path / "5"))
    assert answers(engine, 1)[5].failure is not None


def test_a_worker_that_hangs_is_replaced(start: Start, work: Any, tmp_path: Path, notices: list[str]) -> None:
    engine = start("l4")
    engine.submit(1, "l4", job(tmp_path / "1", work.HANG))
    wait_until(lambda: engine.next(0.2) or any("no answer within 4 s" in notice for notice in notices))


def test_a_node_that_has_another_gpu_than_it_says_is_refused(
    start: Start, cluster: Any, notices: list[str]
) -> None:
    liar = node(cluster, l40s=1)
    try:
        with pytest.raises(HwsearchError, match=r"can measure none of l40s; its nodes offer .*hw:l40s x1"):
            start("l40s")
    finally:
        cluster.remove_node(liar)
    assert any("the device is a l4: fake l40s" in notice for notice in notices)


def test_a_cluster_without_the_asked_gpus_is_named_with_what_it_has(start: Start) -> None:
    with pytest.raises(HwsearchError, match=r"none of a10, rtx4090; its nodes offer hw:l4 x1, hw:t4 x2"):
        start("a10", "rtx4090")


def test_the_end_of_the_cluster_answers_what_was_asked(start: Start, work: Any, tmp_path: Path) -> None:
    engine = start("l4")
    engine.submit(1, "l4", job(tmp_path / "1", work.SLOW))
    assert engine.next(0.1) is None
    process = engine._child._process
    assert process is not None
    process.kill()  # as Ray does where its cluster ends
    failure = answers(engine, 1)[1].failure
    assert failure is not None and failure.kind == DEVICE_GONE
    assert engine.gpus == frozenset() and engine.slots("l4") == 0


COORDINATOR = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from ray_work import HANG, FakeWorker
from test_ray_engine import QUICK, RayEngine, job
engine = RayEngine(["t4"], address={address!r}, precision=0.01, timeout_s=1000.0, warn=print,
                   worker=FakeWorker, patience=QUICK)
engine.submit(1, "t4", job(Path({notes!r}), HANG))
while True:
    engine.next(1.0)
"""


def test_nothing_measures_on_after_the_coordinator_is_killed(cluster: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    code = COORDINATOR.format(here=str(HERE), address=cluster.address, notes=str(notes))
    coordinator = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: coordinator.poll() is not None or (notes.exists() and notes.read_text()))
    worker = int(notes.read_text())
    assert os.kill(worker, 0) is None
    coordinator.send_signal(signal.SIGKILL)
    coordinator.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_an_address_that_does_not_answer_is_refused_at_once(tmp_path: Path) -> None:
    for address, message in {
        "127.0.0.1:1": "127.0.0.1:1: no answer: ",
        "ray://127.0.0.1:10001": "accepted: HOST:PORT",
        "head": "accepted: HOST:PORT",
    }.items():
        with pytest.raises(HwsearchError, match=message):
            RayEngine(["t4"], address=address, precision=0.01, timeout_s=1.0, warn=print)
