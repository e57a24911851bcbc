"""The CPU's name, by which its tuned tables are found. The standard library alone."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def cpu_name() -> str:
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(key: str) -> str | None:
    """The first value of `key` in Linux's /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)
