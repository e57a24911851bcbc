"""What stands in for the encoder's bench in a child; imported there by name. None of these needs torch."""

from __future__ import annotations

import os
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any, cast

from hwsearch.measure.job import Job

# What a bench finds besides times.
FOUND = {"gpu": "t4", "device": "Tesla T4", "p50_s": 0.5, "taint": None}


class Bench:
    """Answers at once."""

    def __init__(self, device: str, index: int) -> None:
        self.where = device, index

    def open(self, job: Job) -> None:
        pass

    def capture(self) -> None:
        pass

    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        return {**FOUND, "process": os.getpid(), "asked": [*self.where, precision, energy]}

    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        """Some bytes a token, and no more than 1,000 tokens fit."""
        if job.workload.tokens > 1000:
            raise MemoryError(f"{job.workload.tokens} tokens")
        return 10 * job.workload.tokens


class Aborts(Bench):
    def open(self, job: Job) -> None:
        print("about to abort", flush=True)
        os.abort()

    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        """As a process that the system ends, since memory ran out."""
        if job.workload.tokens > 1000:
            os.kill(os.getpid(), 9)
        return 10 * job.workload.tokens


class Hangs(Bench):
    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        time.sleep(1000)
        return {}


class RunsOutOfMemory(Bench):
    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")


class ReadsOutside(Bench):
    """As torch after an illegal access: whatever asks the device finds the same error."""

    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        def refuse() -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

        cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=refuse, empty_cache=refuse)
        sys.modules["torch"] = cast(ModuleType, SimpleNamespace(cuda=cuda))
        refuse()
        return {}


class Uncapturable(Bench):
    """As an attention that looks at the lengths on the host."""

    spoiled = False

    def capture(self) -> None:
        self.spoiled = True
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        return {**super().time(precision, energy), "spoiled": self.spoiled}


class TooLargeToCapture(Bench):
    def capture(self) -> None:
        raise RuntimeError("CUDA out of memory.")


class Refuses(Bench):
    """For a reason that has nothing to do with the batch."""

    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        raise ValueError("backend: 'triton': not here")


class RefusesGraphs(Bench):
    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        if job.runtime == "graph":
            raise RuntimeError("no CUDA here")
        return super().peak_of(job, memory_bytes)


class Troubles(Bench):
    """One sequence is fine, of more their number says what goes wrong; None of it is the process's fault."""

    ABORT, HANG, NO_MEMORY, ERROR, LEAVE = 2, 3, 4, 5, 6

    def open(self, job: Job) -> None:
        self.trouble = job.workload.batch_size

    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        if self.trouble == self.ABORT:
            os.abort()
        if self.trouble == self.HANG:
            time.sleep(1000)
        if self.trouble == self.NO_MEMORY:
            raise MemoryError("no more")
        if self.trouble == self.ERROR:
            raise ValueError("no such kernel")
        if self.trouble == self.LEAVE:
            sys.exit(3)
        return super().time(precision, energy)


class Tires(Bench):
    """Fails at its second workload, whatever that is, at the step that the device's index says."""

    opened = 0

    def open(self, job: Job) -> None:
        self.opened += 1
        self._tire(0)

    def capture(self) -> None:
        self._tire(1)

    def time(self, precision: float, energy: bool) -> dict[str, Any]:
        self._tire(2)
        return super().time(precision, energy)

    def _tire(self, step: int) -> None:
        if self.opened > 1 and step == self.where[1]:
            raise RuntimeError("tired")


class Hoards(Bench):
    """What its batches took is never free again."""

    taken = 0

    def peak_of(self, job: Job, memory_bytes: int | None) -> int | None:
        self.taken += job.workload.tokens
        if self.taken > 1000:
            raise MemoryError(f"{self.taken} tokens")
        return os.getpid()
