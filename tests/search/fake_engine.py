"""An engine without devices: what it answers follows from the shape alone."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection

from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row, measured_row
from hwsearch.search.engine import DEVICE_GONE, Answer
from hwsearch.shape.flops import count_flops

Fails = Callable[[str, Job], Failure | None]


def seconds_of(job: Job, gpu: str) -> float:
    """Roughly what compute takes, and up to 20 % more that only a measurement knows."""
    flops = count_flops(job.shape, job.workload.lengths).forward
    own = int(hashlib.sha256(f"{gpu} {job.shape}".encode()).hexdigest()[:4], 16) / 0xFFFF
    return flops / {"t4": 3e13, "l4": 8e13}.get(gpu, 5e13) * (1 + 0.2 * own)


def row_of(job: Job, gpu: str, device: str = "a card", torch: str = "2.13") -> Row:
    seconds = seconds_of(job, gpu)
    found = {
        "gpu": gpu, "device": device, "uuid": None, "p50_s": seconds, "p20_s": seconds, "p80_s": seconds,
        "n": 5, "error": 0.004, "peak_bytes": 1 << 28, "taint": None,
        "versions": {"torch": torch, "triton": "3.6", "driver": "1"},
    }  # fmt: skip
    return measured_row(job, found, None)


class FakeEngine:
    """Answers in the order of submission. `asked` keeps what was measured, by GPU and key."""

    def __init__(
        self,
        gpus: Collection[str],
        *,
        fails: Fails = lambda gpu, job: None,
        gone_after: dict[str, int] | None = None,
        kill_after: int | None = None,
        device: str = "a card",
    ) -> None:
        self.gpus = frozenset(gpus)
        self.asked: list[tuple[str, str]] = []
        self._jobs: deque[tuple[int, str, Job]] = deque()
        self._fails, self._gone_after, self._kill_after = fails, gone_after or {}, kill_after
        self._device = device

    def slots(self, gpu: str) -> int:
        return int(gpu in self.gpus)

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        assert gpu not in [each for _, each, _ in self._jobs]
        self._jobs.append((ticket, gpu, job))

    def next(self, timeout_s: float) -> Answer | None:
        if not self._jobs:
            return None
        if self._kill_after is not None and len(self.asked) >= self._kill_after:
            raise Killed
        ticket, gpu, job = self._jobs.popleft()
        if len([each for each, _ in self.asked if each == gpu]) >= self._gone_after.get(gpu, 1 << 30):
            self.gpus -= {gpu}
        if gpu not in self.gpus:
            return Answer(ticket, gpu, None, Failure(DEVICE_GONE, "it left"))
        self.asked.append((gpu, job.key))
        if (failure := self._fails(gpu, job)) is not None:
            return Answer(ticket, gpu, None, failure)
        return Answer(ticket, gpu, row_of(job, gpu, self._device), None)

    def close(self) -> None:
        self._jobs.clear()


class Killed(BaseException):
    """As abrupt as kill -9, for all that is written."""
