"""Real crashes, hangs and floods in a child, and a parent that goes on."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def worker_class() -> Iterator[Any]:
    sys.path.insert(0, str(HERE))  # a child finds what its parent finds
    yield importlib.import_module("child_work").Worker
    sys.path.remove(str(HERE))


@pytest.fixture
def child(worker_class: Any) -> Iterator[Child]:
    with Child(worker_class, 10) as child:
        yield child


def call(child: Child, method: str, *arguments: object, timeout: float = 60.0) -> Any:
    return child.call(method, *arguments, timeout=timeout)


def alive(process: int) -> bool:
    """Whether the process runs; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], object]) -> None:
    stop = time.monotonic() + 60
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
    assert call(child, "run_out_of_memory") == Failure("out of memory", "MemoryError", call(child, "run_out_of_memory").output)
    assert call(child, "add", 2) == 13
