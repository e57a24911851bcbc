"""How long this process's threads were ready to run and had no core, as the Linux scheduler counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

TASKS = Path("/proc/self/task")


def waited_seconds() -> float | None:
    """Of all threads that live, summed; None where the kernel does not tell."""
    waited = None
    for path in TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread may end at any moment
            # Documentation/scheduler/sched-stats.rst: nanoseconds run, nanoseconds waited, times run.
            waited = (waited or 0) + int(path.read_text().split()[1])
    return None if waited is None else waited / 1e9
