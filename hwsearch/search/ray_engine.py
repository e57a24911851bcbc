"""Measures on the GPUs of a Ray cluster.

    engine = RayEngine(["t4", "l4"], "10.0.0.1:6379", print)

The nodes say what they have by resources of our own, "hw:t4". hwsearch.search.ray_worker runs there,
hwsearch.search.ray_pool here, in a child process: where its cluster ends, Ray ends the process that uses it.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.gpu.visible import PREFIX
from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.search.engine import DEVICE_GONE, Answer
from hwsearch.search.ray_pool import News, Patience, Pool, Task
from hwsearch.search.ray_worker import Worker

# For an address that does not answer, and for Ray to join what answers there.
KNOCK_SECONDS, CONNECT_SECONDS = 5.0, 30.0
# What an exchange may take beyond the time that it waits; a busy machine is slow.
SLACK_SECONDS = 60.0
TRUST = (
    "Ray runs what is sent to it, and encrypts nothing: whoever reaches the cluster's ports can run code on"
    " every node. Use it on networks that you trust alone"
)
ADDRESSES = "accepted: HOST:PORT of a cluster's head, or auto, the cluster that this machine is a node of"


class RayEngine:
    """An hwsearch.search.engine.Engine."""

    def __init__(
        self,
        gpus: Sequence[str],
        address: str | None,
        warn: Callable[[str], None],
        *,
        worker: type[Worker] = Worker,
        patience: Patience | None = None,
    ) -> None:
        """Join a cluster and start a worker on each device that one of `gpus` is.

        Args:
            address: HOST:PORT of the cluster's head; $RAY_ADDRESS, else this machine's cluster, by default.
            warn: called with one line for what people should know, as of a node that leaves.
            worker: what runs on the nodes, a class that can be imported there.

        Raises HwsearchError where Ray is not installed, nothing answers at the address, or the cluster has
        none of the GPUs.
        """
        if not _installed():
            raise HwsearchError('--engine ray: Ray is not installed; pip install "hwsearch[ray]"')
        where = _reachable(address or os.environ.get("RAY_ADDRESS") or "auto")
        self._warn = warn
        self._slots: Mapping[str, int] = {}
        self._new: list[Task] = []
        self._open: dict[int, str] = {}
        self._answers: deque[Answer] = deque()
        patience = patience or Patience()
        self._child = Child(Pool, tuple(gpus), worker, patience)
        try:
            if problem := self._child.call("connect", where, timeout=CONNECT_SECONDS):
                raise HwsearchError(
                    f"--ray-address {where}: cannot join a Ray cluster: {problem}; {ADDRESSES}"
                )
            warn(TRUST)
            found = self._child.call("gather", timeout=patience.start + SLACK_SECONDS)
            if isinstance(found, Failure):
                raise HwsearchError(f"--ray-address {where}: the Ray cluster fails: {found}")
            self._take(found)
            if not self._slots:
                raise HwsearchError(self._why_none(where, gpus))
        except BaseException:
            self.close()
            raise

    @property
    def gpus(self) -> frozenset[str]:
        return frozenset(self._slots)

    def slots(self, gpu: str) -> int:
        return self._slots.get(gpu, 0)

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        self._open[ticket] = gpu
        if gpu in self._slots:
            self._new.append(Task(ticket, gpu, job))
        else:
            self._answer_gone(ticket, f"nothing measures {gpu} on this Ray cluster")

    def next(self, timeout_s: float) -> Answer | None:
        if self._slots and (self._new or not self._answers):
            tasks, self._new = self._new, []
            wait = 0.0 if self._answers else timeout_s
            self._take(self._child.call("exchange", tasks, wait, timeout=wait + SLACK_SECONDS))
        return self._answers.popleft() if self._answers else None

    def close(self) -> None:
        """End the pool's process; Ray then ends the workers, and they their children."""
        self._child.close()

    def _take(self, news: News | Failure) -> None:
        if isinstance(news, Failure):
            gone = f"the Ray cluster is gone: {news.reason}"
            self._warn(gone)
            self._slots = {}
            for ticket in list(self._open):
                self._answer_gone(ticket, gone)
            return
        for notice in news.notices:
            self._warn(notice)
        self._slots = news.slots
        for answer in news.answers:
            del self._open[answer.ticket]
            self._answers.append(answer)

    def _answer_gone(self, ticket: int, reason: str) -> None:
        self._answers.append(Answer(ticket, self._open.pop(ticket), None, Failure(DEVICE_GONE, reason)))

    def _why_none(self, where: str, gpus: Sequence[str]) -> str:
        offered: Any = self._child.call("offered", timeout=SLACK_SECONDS)
        if isinstance(offered, Failure):
            return f"--ray-address {where}: the Ray cluster fails: {offered}"
        counts = ", ".join(f"{PREFIX}{gpu} x{count}" for gpu, count in offered.items())
        return (
            f"--ray-address {where}: the cluster can measure none of {', '.join(gpus)};"
            f" its nodes offer {counts or 'nothing that hwsearch knows'}. Start a node with"
            ' ray start --address=HOST:PORT --resources="$(hwsearch gpus detect --ray)"'
        )


def _installed() -> bool:
    try:
        return find_spec("ray") is not None
    except ValueError:  # something of that name that was not imported from a file
        return False


def _reachable(address: str) -> str:
    """The address as Ray takes it. Raises HwsearchError; Ray itself would try for minutes."""
    if address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise HwsearchError(f"--ray-address {address}: {ADDRESSES}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise HwsearchError(
            f"--ray-address {address}: no answer: {error.strerror or error}; {ADDRESSES}"
        ) from error
    return address
