"""Real crashes, hangs and floods in a child, and a parent that goes on."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure, failure

HERE = Path(__file__).parent
# Far beyond what any of these calls takes.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def worker_class() -> Iterator[Any]:
    sys.path.insert(0, str(HERE))  # a child finds what its parent finds
    yield importlib.import_module("child_work").Worker
    sys.path.remove(str(HERE))


@pytest.fixture
def child(worker_class: Any) -> Iterator[Child]:
    with Child(worker_class, 10) as child:
        yield child


def call(child: Child, method: str, *arguments: object) -> Any:
    return child.call(method, *arguments, timeout=PATIENCE)


def alive(process: int) -> bool:
    """Whether the process runs; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    stop = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.01)


def test_the_object_lives_on_between_calls_and_through_exceptions(child: Child) -> None:
    assert call(child, "add") == 11
    failed = call(child, "fail")
    assert (failed.kind, failed.reason) == ("error", "ValueError: no such tile")
    assert "about to fail" in failed.output and "and more" in failed.output
    assert str(failed) == "error: ValueError: no such tile"
    assert call(child, "leave").reason == "SystemExit: enough"
    assert call(child, "nothing").kind == "error"
    assert call(child, "closure").kind == "error"
    failed = call(child, "run_out_of_memory")
    assert (failed.kind, failed.reason) == ("out of memory", "MemoryError")
    assert "about to fail" not in failed.output, "what an earlier call printed"
    assert call(child, "add", 2) == 13


def test_a_crash_costs_one_call(child: Child) -> None:
    call(child, "add")
    failed = call(child, "crash")
    assert (failed.kind, failed.reason) == ("crash", "the process was killed by SIGSEGV")
    assert "about to crash" in failed.output and "string_at" in failed.output
    assert call(child, "add") == 11, "a new object"
    assert call(child, "end", 3).reason == "the process ended with exit status 3"
    assert call(child, "add") == 11


@pytest.mark.parametrize("method", ["hang", "hang_in_c", "chatter"])
def test_a_hang_costs_its_time_and_says_where(child: Child, method: str) -> None:
    process = call(child, "process")
    failed = child.call(method, timeout=0.5)
    assert (failed.kind, failed.reason) == ("time-out", "no answer within 0.5 s")
    assert len(failed.output) < 5000
    assert method == "chatter" or f"in {method}" in failed.output
    assert not alive(process)
    assert call(child, "add") == 11


def test_a_child_may_close_its_output(child: Child) -> None:
    assert call(child, "close_output") is None
    assert call(child, "add") == 11
    assert child.call("hang", timeout=0.2).kind == "time-out"


def test_what_a_child_started_ends_with_it(child: Child, tmp_path: Path) -> None:
    sleeper = call(child, "start_sleeper")
    assert alive(sleeper)
    child.close()
    wait_until(lambda: not alive(sleeper))
    child.close()  # nothing more to close


def test_large_arguments_pass_and_larger_answers_are_refused(child: Child) -> None:
    assert call(child, "length", bytes(30 << 20)) == 30 << 20
    assert call(child, "bytes_of", 20 << 20) == bytes(20 << 20)
    failed = call(child, "bytes_of", 65 << 20)
    assert failed.kind == "error" and "at most 67,108,864 are accepted" in failed.reason
    assert call(child, "add") == 11


def test_a_factory_that_fails_is_the_calls_failure(worker_class: Any) -> None:
    with Child(worker_class, -1) as child:
        for _ in range(2):
            assert str(call(child, "add")) == "not ready: as it started: ValueError: no count below 0"


def test_functions_of_a_module_may_be_called() -> None:
    with Child(importlib.import_module, "math") as child:
        assert call(child, "sqrt", 9.0) == 3.0


def test_what_cannot_travel_is_the_callers_mistake(child: Child) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        Child(lambda: None)
    call(child, "add")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        call(child, "add", lambda: None)
    assert call(child, "add") == 12


def test_a_child_that_was_killed_between_two_calls_is_replaced(child: Child) -> None:
    process = call(child, "process")
    os.kill(process, signal.SIGKILL)
    # Whoever notices: the next call, or the one after.
    wait_until(lambda: call(child, "add") == 11)
    assert call(child, "process") != process


def test_a_lost_device_costs_one_call_and_the_child(child: Child) -> None:
    call(child, "add")
    failed = call(child, "lose_device")
    assert failed.kind == "crash"
    assert failed.reason.startswith(
        "the CUDA context is lost: RuntimeError: CUDA error: an illegal memory access"
    )
    assert call(child, "add") == 11


def test_memory_that_ran_out_is_told_from_other_errors() -> None:
    assert failure(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")).kind == "out of memory"
    assert failure(MemoryError()) == Failure("out of memory", "MemoryError")
    assert failure(RuntimeError("out of resource: shared memory")).kind == "error"
    assert failure(ModuleNotFoundError("No module named 'torch'")).kind == "not ready"
    assert failure(OSError(28, "No space left on device")).kind == "not ready"
    assert failure(OSError(12, "Cannot allocate memory")).kind == "out of memory"


def test_children_in_threads_do_not_meet(worker_class: Any) -> None:
    def count(start: int) -> list[int]:
        with Child(worker_class, start) as child:
            return [call(child, "add") for _ in range(20)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(count, (0, 100, 200))) == [list(range(s + 1, s + 21)) for s in (0, 100, 200)]


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a script's background ignores it
sys.path.insert(0, {here!r})
from child_work import Worker
from hwsearch.measure.child import Child
with Child(Worker) as child:
    print(child.call({method!r}, *sys.argv[1:], timeout=1000.0))
"""


def start_parent(method: str, *arguments: str) -> subprocess.Popen[str]:
    code = PARENT.format(here=str(HERE), method=method)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_parent_leaves_no_orphan(tmp_path: Path) -> None:
    file = tmp_path / "processes"
    parent = start_parent("start_sleeper_and_hang", str(file))
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    child, sleeper = map(int, file.read_text().split())
    assert alive(child) and alive(sleeper)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not alive(child) and not alive(sleeper))


def test_ctrl_c_reaches_the_parent_which_ends_the_child(tmp_path: Path) -> None:
    file = tmp_path / "processes"
    parent = start_parent("start_sleeper_and_hang", str(file))
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    child, sleeper = map(int, file.read_text().split())
    os.kill(child, signal.SIGINT)  # as a terminal would send it, were they of one session
    time.sleep(0.1)
    assert alive(child) and os.getsid(child) != os.getsid(parent.pid)
    parent.send_signal(signal.SIGINT)
    _, error = parent.communicate()
    assert "KeyboardInterrupt" in error
    wait_until(lambda: not alive(child) and not alive(sleeper))


@pytest.mark.gpu
def test_on_a_gpu_a_bad_access_costs_one_call(worker_class: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    with Child(importlib.import_module("child_work").GpuWorker) as child:
        assert call(child, "sum") == 1000.0
        assert call(child, "take_all_memory").kind == "out of memory"
        assert call(child, "sum") == 1000.0
        assert call(child, "read_outside").kind == "crash"
        assert call(child, "sum") == 1000.0
