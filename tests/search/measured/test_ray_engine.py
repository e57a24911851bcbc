"""A real Ray cluster of several nodes on this machine; what measures there is fake."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure.failure import CRASH
from hwsearch.measure.job import Job
from hwsearch.search.measured.engine import DEVICE_GONE, Answer
from hwsearch.search.measured.ray_engine import RayEngine
from hwsearch.search.measured.ray_pool import Patience
from hwsearch.search.measured.rung import measure_front
from hwsearch.search.run import run
from hwsearch.shape import parse_shape
from hwsearch.space.search_space import load_space
from hwsearch.workload import Workload
from tests.conftest import Cli

HERE = Path(__file__).parents[1]  # where ray_work.py is
# Far beyond what anything here takes.
PATIENCE_S = 600.0
HANG_S = 25.0
LENIENT = Patience(start=PATIENCE_S, gone=1.0, job=HANG_S)
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
    """A head that says it has six GPUs; what Ray can start without is not started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # at Ray's 15 they start within minutes on a busy machine
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # the nodes find what we find
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            node(
                cluster,
                {"t4": 2, "l4": 1, "l40s": 1, "v100": 1, "a10": 1, "cpu": 1},
                include_dashboard=False,
                include_log_monitor=False,
                no_monitor=True,
            )
            yield cluster
        finally:
            cluster.shutdown()


def node(cluster: Any, gpus: dict[str, int], **options: Any) -> Any:
    resources = {f"hw:{gpu}": count for gpu, count in gpus.items()}
    return cluster.add_node(
        num_cpus=0,
        num_gpus=sum(gpus.values()),
        resources=resources,
        object_store_memory=OBJECTS,
        **options,
    )


@pytest.fixture(scope="module")
def second(cluster: Any) -> Any:
    return node(cluster, {"t4": 1, "a2": 1})


@pytest.fixture(scope="module")
def notices() -> list[str]:
    return []


@pytest.fixture(scope="module")
def engine(cluster: Any, second: Any, work: Any, notices: list[str]) -> Iterator[RayEngine]:
    """Of a basket with one GPU that the cluster lacks; the tests that follow share it, in this order."""
    engine = RayEngine(
        ["t4", "l4", "a2", "a30"], cluster.address, notices.append, worker=work.FakeWorker, patience=LENIENT
    )
    yield engine
    engine.close()


def job(notes: Path, depth: int = 4) -> Job:
    """The fake worker leaves a line in the file that the workload is named after."""
    shape = parse_shape(f"L{depth}-h64-a1-i128")
    return Job(shape, Workload(str(notes), (16,), 16), "fp32", "inference", "eager", "none")


def answers(engine: RayEngine, count: int) -> dict[int, Answer]:
    """So many answers by ticket; each ticket has one."""
    found: dict[int, Answer] = {}
    stop = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < stop, f"only {sorted(found)}"
        if (answer := engine.next(0.5)) is not None:
            assert answer.ticket not in found
            found[answer.ticket] = answer
    assert engine.next(0.1) is None
    return found


def row(answer: Answer) -> dict[str, Any]:
    assert answer.row is not None, answer.failure
    return answer.row


def failure(answer: Answer) -> str:
    assert answer.failure is not None
    return str(answer.failure)


def tries(notes: Path) -> int:
    """How often a fake job was begun."""
    return notes.read_text().count("\n") if notes.exists() else 0


def wait_until(condition: Callable[[], object], engine: RayEngine | None = None) -> None:
    """Meanwhile the engine gives no answer."""
    stop = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < stop
        if engine is None:
            time.sleep(0.05)
        else:
            assert engine.next(0.05) is None


def test_each_gpu_answers_what_it_is_asked_one_job_at_a_time(engine: RayEngine, tmp_path: Path) -> None:
    assert engine.gpus == {"t4", "l4", "a2"} and engine.slots("a30") == 0
    wait_until(lambda: engine.slots("t4") == 3, engine)
    asked = {ticket: ("l4", "a2", "t4", "t4", "t4")[ticket % 5] for ticket in range(30)}
    for ticket, gpu in asked.items():
        engine.submit(ticket, gpu, job(tmp_path / str(ticket)))
    engine.submit(99, "a30", job(tmp_path / "99"))
    found = answers(engine, 31)
    assert failure(found.pop(99)).startswith(DEVICE_GONE)
    assert {ticket: row(answer)["gpu"] for ticket, answer in found.items()} == asked
    turns: dict[int, list[tuple[float, float]]] = {}
    for each in map(row, found.values()):
        turns.setdefault(each["worker"], []).append((each["begin"], each["end"]))
    assert len(turns) == 5
    for own in map(sorted, turns.values()):
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(own))


def test_a_lost_worker_costs_a_try_and_a_job_that_costs_three_is_given_up(
    engine: RayEngine, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    for ticket, depth in enumerate((work.DIE_ONCE, work.DIE, work.RAISE, work.FAIL, 4)):
        engine.submit(ticket, "t4", job(tmp_path / str(ticket), depth))
    found = answers(engine, 5)
    assert row(found[0])["gpu"] == row(found[4])["gpu"] == "t4"
    assert failure(found[1]).startswith(f"{CRASH}: 3 workers were lost with it")
    assert failure(found[2]) == "error: ValueError: no such kernel"
    assert failure(found[3]) == f"{CRASH}: the process was killed by SIGSEGV"
    assert [tries(tmp_path / str(ticket)) for ticket in range(5)] == [2, 3, 1, 1, 1]
    assert any("the worker of its t4 is lost" in notice for notice in notices)


def test_a_worker_that_is_not_ready_is_replaced_and_no_job_is_blamed(
    engine: RayEngine, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    engine.submit(1, "a2", job(tmp_path / "1", work.UNREADY))
    assert row(answers(engine, 1)[1])["gpu"] == "a2"
    assert tries(tmp_path / "1") == work.UNREADY_TIMES + 1
    assert any("its a2 is lost: as it started: no module" in notice for notice in notices)


def test_a_worker_that_hangs_is_replaced(
    engine: RayEngine, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    engine.submit(1, "l4", job(tmp_path / "1", work.HANG_ONCE))
    assert row(answers(engine, 1)[1])["gpu"] == "l4" and tries(tmp_path / "1") == 2
    assert any(f"its l4 is lost: no answer within {HANG_S:g} s" in notice for notice in notices)


def test_a_node_may_come_and_one_may_die_in_mid_run(
    engine: RayEngine, cluster: Any, second: Any, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    wait_until(lambda: engine.slots("t4") == 3, engine)
    node(cluster, {"t4": 1})
    wait_until(lambda: engine.slots("t4") == 4, engine)
    for ticket in range(6):
        engine.submit(ticket, "t4", job(tmp_path / str(ticket), work.SLOW))
    for ticket in range(6, 9):
        engine.submit(ticket, "a2", job(tmp_path / str(ticket), work.SLOW))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 5, engine)
    cluster.remove_node(second, allow_graceful=False)
    found = answers(engine, 9)
    assert all(row(found[ticket])["gpu"] == "t4" for ticket in range(6))
    assert sorted(tries(tmp_path / str(ticket)) for ticket in range(6)) == [1, 1, 1, 1, 1, 2]
    assert all(failure(found[ticket]).startswith(DEVICE_GONE) for ticket in range(6, 9))
    assert engine.gpus == {"t4", "l4"}
    engine.submit(9, "a2", job(tmp_path / "9"))
    assert failure(answers(engine, 1)[9]).startswith(DEVICE_GONE)


def test_the_end_of_the_cluster_answers_what_was_asked(
    engine: RayEngine, work: Any, tmp_path: Path, notices: list[str]
) -> None:
    engine.submit(1, "t4", job(tmp_path / "1", work.SLOW))
    wait_until((tmp_path / "1").exists, engine)
    process = engine._child._process
    assert process is not None
    process.kill()  # as Ray does where its cluster ends
    assert failure(answers(engine, 1)[1]).startswith(f"{DEVICE_GONE}: the Ray cluster is gone")
    assert engine.gpus == frozenset() and engine.slots("t4") == 0


def test_a_device_that_is_held_by_another_job_is_not_waited_for_long(cluster: Any, work: Any) -> None:
    import ray

    said: list[str] = []
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        group = ray.util.placement_group([{"hw:a10": 1}])
        assert group.wait(PATIENCE_S)
        with pytest.raises(HwsearchError, match="can measure none of a10; its nodes offer hw:a10 x1, "):
            RayEngine(["a10"], cluster.address, said.append, worker=work.FakeWorker, patience=Patience(1.0))
    finally:
        ray.shutdown()
    assert any("another Ray job may hold the device" in each for each in said)


def test_a_node_that_has_another_gpu_than_it_says_is_refused(cluster: Any, work: Any) -> None:
    said: list[str] = []
    with pytest.raises(HwsearchError, match=r"can measure none of l40s, b200; its nodes offer .*hw:l40s x1"):
        RayEngine(["l40s", "b200"], cluster.address, said.append, worker=work.FakeWorker, patience=LENIENT)
    assert any("its l40s is not asked: the device is a l4: fake l40s." in each for each in said)
    assert any("trust" in each for each in said)


def test_a_run_measures_on_after_a_node_has_died(
    cluster: Any, work: Any, small_space: Path, tmp_path: Path
) -> None:
    predicted = run(
        load_space(str(small_space)).with_gpus(["t4", "l4", "b200"]), out=tmp_path / "run", trials=5
    )
    doomed, said, rows = node(cluster, {"l4": 1}), list[str](), predicted.folder.measurements
    engine = RayEngine(
        ["t4", "l4", "b200"], cluster.address, said.append, worker=work.TableWorker, patience=LENIENT
    )
    wait_until(lambda: engine.slots("l4") == 2, engine)
    killer = threading.Thread(
        target=lambda: (
            wait_until(lambda: tries(rows) > 5),
            cluster.remove_node(doomed, allow_graceful=False),
        )
    )
    killer.start()
    result = measure_front(predicted, engine, count=4, warn=said.append)
    killer.join()
    assert len(result.shapes) == 4 and not result.failed
    # The reference and four shapes on two workloads, once on each GPU that the cluster has.
    measured = [(row["gpu"], row["key"]) for row in map(json.loads, rows.read_text().splitlines())]
    assert len(measured) == len(set(measured)) == 5 * 2 * 2 and {gpu for gpu, _ in measured} == {"t4", "l4"}
    assert "no device measures b200: predicted there" in said


COORDINATOR = """
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {here!r} + "/measured"]
from ray_work import HANG_ONCE, FakeWorker
from test_ray_engine import RayEngine, job
engine = RayEngine(["v100"], {address!r}, print, worker=FakeWorker)
engine.submit(1, "v100", job(Path({notes!r}), HANG_ONCE))
while True:
    engine.next(1.0)
"""


def test_nothing_measures_on_after_the_coordinator_is_killed(cluster: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    code = COORDINATOR.format(here=str(HERE), address=cluster.address, notes=str(notes))
    coordinator = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: coordinator.poll() is not None or tries(notes))
        worker = Path("/proc", notes.read_text().strip())
        assert worker.exists()
    finally:
        coordinator.kill()
        coordinator.wait()
    wait_until(lambda: not worker.exists())


TINY_SPACE = """\
shape:
  num_hidden_layers: {min: 1, max: 4}
  hidden_size: {min: 64, max: 128, step: 64}
  head_size: 64
  intermediate_size: {min: 64, max: 256, step: 64}
  vocab_size: 512
  max_position_embeddings: 128
budget: {min: 60000, max: 600000}
basket: {t4: 1.0}
workloads:
  - {lengths: "fixed:32x4"}
objectives:
  latency: {weight: 1.0}
  quality_prior: {weight: 1.0}
reference: L2-h64-a1-i128-v512-p128
"""


def test_the_command_measures_the_clusters_cpu(cluster: Any, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_SPACE)
    basket = ("--space", "tiny.yaml", "--gpus", "cpu,b200", "--out", "run", "--json")
    engine = ("--rung", "measure", "--trials", "1", "--engine", "ray", "--ray-address", cluster.address)
    done = cli("run", *basket, *engine)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "measurements.jsonl").read_text().splitlines()]
    assert [(row["gpu"], row["source"], row["device"]) for row in rows] == [
        ("cpu", "measured", cpu_name())
    ] * 2
    assert rows[0]["shape"] == "L2-h64-a1-i128-v512-p128" and all(row["p50_s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no answer: Connection refused"),
        ("no-such-host.invalid:6379", "no answer: "),
        ("ray://127.0.0.1:10001", "accepted: HOST:PORT"),
        ("head", "accepted: HOST:PORT"),
        ("127.0.0.1:99999", "accepted: HOST:PORT"),
    ],
)
def test_an_address_that_does_not_answer_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(HwsearchError, match=message):
        RayEngine(["t4"], address, print)


def test_without_ray_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HwsearchError, match=r'pip install "hwsearch\[ray\]"'):
        RayEngine(["t4"], None, print)
