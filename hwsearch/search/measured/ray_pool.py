"""The devices of a Ray cluster as a pool that takes tasks and gives answers.

A pool lives in a child process of the coordinator, see `ray_engine`: Ray ends the process that uses it where
its cluster ends, and prints there what nobody asked for.

An actor holds each device and gets one job at a time; jobs that wait do so here, so that losing an actor
costs one job a try and nothing else.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hwsearch.gpu.profile import CPU
from hwsearch.gpu.visible import PREFIX
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure.child import START_SECONDS
from hwsearch.measure.code import timed_code
from hwsearch.measure.device import DeviceLost
from hwsearch.measure.encoder import TIMEOUT_S
from hwsearch.measure.failure import CRASH, ERROR, NOT_READY, Failure, failure, reason
from hwsearch.measure.job import Job
from hwsearch.search.measured.engine import DEVICE_GONE, Answer
from hwsearch.search.measured.ray_worker import Description, Worker

# How often to look which nodes there are, and how long to wait for answers in between.
LOOK_SECONDS, GLANCE_SECONDS = 2.0, 0.5
# A job that took so many workers with it is given up; so is a device that lost so many without an answer in
# between, since two such jobs in a row are no fault of its own, and one whose worker cannot be started.
MOST_LOSSES_OF_JOB, MOST_LOSSES_OF_DEVICE, MOST_STARTS = 3, 7, 2
LONGEST_REASON = 200


@dataclass(frozen=True)
class Task:
    """A job under its ticket; `losses` counts the workers that were lost while they measured it."""

    ticket: int
    gpu: str
    job: Job
    losses: int = 0


@dataclass(frozen=True)
class Patience:
    """Seconds to wait.

    Attributes:
        start: for a GPU's first worker; another Ray job may hold the devices.
        gone: for a GPU that has no worker left, before nothing can measure it any more.
        job: for an answer to a job. Its child has time limits of its own; two may be started.
    """

    start: float = 120.0
    gone: float = 60.0
    job: float = TIMEOUT_S + 2 * START_SECONDS + 60.0


@dataclass(frozen=True)
class News:
    """What has happened since the last time.

    Attributes:
        answers: in the order in which they came.
        notices: one line each, for people to read.
        slots: devices that can measure now, by GPU; a GPU that is gone for good is not named.
    """

    answers: tuple[Answer, ...]
    notices: tuple[str, ...]
    slots: Mapping[str, int]


@dataclass(eq=False)
class Slot:
    """A device and the actor that holds it.

    `reply` is what Ray will answer: to the job of `task`, or with the worker's description before it is
    `ready`. `held` is the model of its last job. The worker was asked for at `begun`, by time.monotonic(),
    and is taken for hung after `due`.
    """

    gpu: str
    node: str
    where: str
    actor: Any
    reply: Any
    begun: float
    ready: bool = False
    task: Task | None = None
    held: object = None
    due: float = float("inf")


class Pool:
    """See the module's docstring: `connect`, `gather`, then `exchange` again and again."""

    def __init__(self, gpus: Sequence[str], worker: type[Worker], patience: Patience) -> None:
        self._gpus, self._worker, self._patience = set(gpus), worker, patience
        self._code = timed_code()
        self._slots: list[Slot] = []
        self._waiting: dict[str, deque[Task]] = {gpu: deque() for gpu in gpus}
        # Devices by (node, GPU) that are not asked, and workers lost there since the last answer.
        self._refused: Counter[tuple[str, str]] = Counter()
        self._losses: Counter[tuple[str, str]] = Counter()
        # What the devices of a GPU are: their times are compared, so they are all alike.
        self._kinds: dict[str, tuple[str, str]] = {}
        self._seen: dict[str, float] = {}
        self._looked = 0.0
        self._answers: list[Answer] = []
        self._notices: list[str] = []

    def connect(self, address: str) -> str:
        """Join the cluster; what went wrong, empty if nothing did."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Under `uv run` Ray would send our folder to the nodes; they have their own hwsearch.
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        # Ray has workers import from our current folder, where they have such a one.
        os.chdir("/")
        import ray

        self._ray: Any = ray
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
            )
        except ConnectionError as error:
            return f"none is found: {error}" if address != "auto" else "none runs on this machine"
        except Exception as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""

    def offered(self) -> dict[str, int]:
        """How many devices of each profile the nodes say they have."""
        found: Counter[str] = Counter()
        for node in self._nodes():
            for name, count in node["Resources"].items():
                if name.startswith(PREFIX):
                    found[name.removeprefix(PREFIX)] += int(count)
        return dict(sorted(found.items()))

    def gather(self) -> News:
        """Start the workers and wait for one of each GPU; GPUs that have none by then are given up."""
        self._look()
        stop = time.monotonic() + self._patience.start
        while (missing := self._unready()) and time.monotonic() < stop:
            self._collect(GLANCE_SECONDS)
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
        for slot in [slot for slot in self._slots if slot.gpu in missing]:
            self._notices.append(
                f"{slot.where}: the worker of its {slot.gpu} has not started within"
                f" {self._patience.start:g} s; another Ray job may hold the device"
            )
            self._drop(slot)
        self._gpus = {slot.gpu for slot in self._slots if slot.ready}
        return self._news()

    def exchange(self, tasks: Sequence[Task], timeout_s: float) -> News:
        """Take tasks and say what has happened; waits for the first answer at most `timeout_s`."""
        for task in tasks:
            if task.gpu in self._gpus:
                self._waiting[task.gpu].append(task)
            else:
                self._answer(task, _gone(task.gpu))
        stop = time.monotonic() + timeout_s
        while True:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
                self._give_up_gpus()
            self._hand_out()
            left = stop - time.monotonic()
            self._collect(min(max(left, 0.0), GLANCE_SECONDS))
            if self._answers or left <= 0:
                self._hand_out()
                return self._news()

    def _news(self) -> News:
        ready = Counter(slot.gpu for slot in self._slots if slot.ready)
        news = News(tuple(self._answers), tuple(self._notices), {gpu: ready[gpu] for gpu in self._gpus})
        self._answers, self._notices = [], []
        return news

    def _answer(self, task: Task, answer: object) -> None:
        if not isinstance(answer, Failure | dict):
            answer = Failure(ERROR, f"the worker answers with a {type(answer).__name__}")
        row, failed = (None, answer) if isinstance(answer, Failure) else (answer, None)
        self._answers.append(Answer(task.ticket, task.gpu, row, failed))

    def _unready(self) -> set[str]:
        """GPUs with workers none of which has spoken yet."""
        return {slot.gpu for slot in self._slots} - {slot.gpu for slot in self._slots if slot.ready}

    # Nodes

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _look(self) -> None:
        """Start a worker for every device that has none, and forget idle ones whose node is gone."""
        self._looked = time.monotonic()
        nodes = {node["NodeID"]: node for node in self._nodes()}
        for slot in list(self._slots):
            if slot.node not in nodes and slot.reply is None:
                self._lose(slot, "its node has left the cluster")
        held = Counter((slot.node, slot.gpu) for slot in self._slots)
        for name, node in nodes.items():
            for gpu in sorted(self._gpus):
                offered = int(node["Resources"].get(PREFIX + gpu, 0))
                for _ in range(offered - held[name, gpu] - self._refused[name, gpu]):
                    self._start(gpu, node)

    def _start(self, gpu: str, node: Mapping[str, Any]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        needs_gpu = 0 if gpu == CPU else 1
        if node["Resources"].get("GPU", 0) < needs_gpu:
            self._notices.append(f"{where}: offers {PREFIX}{gpu}, but Ray sees no GPU there; it is not asked")
            self._refused[node["NodeID"], gpu] += 1
            return
        actor: Any = (
            self._ray.remote(self._worker)
            .options(
                num_cpus=0,
                num_gpus=needs_gpu,
                resources={PREFIX + gpu: 1},
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(gpu)
        )
        reply = actor.describe.remote()
        self._slots.append(Slot(gpu, node["NodeID"], where, actor, reply, begun=time.monotonic()))

    def _drop(self, slot: Slot) -> None:
        self._slots.remove(slot)
        with suppress(Exception):
            self._ray.kill(slot.actor)

    def _lose(self, slot: Slot, why: str, *, by_job: bool = True) -> None:
        """A worker is no more: its task goes to another one, and its device gets a new one if it is there.

        `by_job` says whether the task may be why.
        """
        self._drop(slot)
        self._losses[slot.node, slot.gpu] += 1
        most = MOST_LOSSES_OF_DEVICE if slot.ready else MOST_STARTS
        if lost_often := self._losses[slot.node, slot.gpu] >= most:
            self._refused[slot.node, slot.gpu] += 1
        self._notices.append(
            f"{slot.where}: the worker of its {slot.gpu} is lost: {why}"
            + ("; the device is not asked any more" if lost_often else "")
        )
        if slot.task is None:
            return
        task = replace(slot.task, losses=slot.task.losses + by_job)
        if task.losses < MOST_LOSSES_OF_JOB:
            self._waiting[task.gpu].appendleft(task)
        else:
            self._answer(
                task, Failure(CRASH, f"{task.losses} workers were lost with it, the last one: {why}")
            )

    def _give_up_gpus(self) -> None:
        now = time.monotonic()
        for gpu in list(self._gpus):
            mine = [slot for slot in self._slots if slot.gpu == gpu]
            if any(slot.ready or now - slot.begun < self._patience.start for slot in mine):
                self._seen[gpu] = now
            elif now - self._seen.setdefault(gpu, now) > self._patience.gone:
                self._gpus.remove(gpu)
                for slot in mine:
                    self._drop(slot)
                for task in self._waiting.pop(gpu):
                    self._answer(task, _gone(gpu))

    # Tasks

    def _hand_out(self) -> None:
        for gpu, waiting in self._waiting.items():
            free = [slot for slot in self._slots if slot.gpu == gpu and slot.ready and slot.reply is None]
            while waiting and free:
                task = waiting.popleft()
                # The one whose process holds the model, if it is free.
                slot = next((slot for slot in free if slot.held == task.job.model), free[0])
                free.remove(slot)
                slot.task, slot.held = task, task.job.model
                slot.reply = slot.actor.measure.remote(task.job)
                slot.due = time.monotonic() + self._patience.job

    def _collect(self, timeout_s: float) -> None:
        """Wait for what Ray answers first, and take it."""
        replies = {slot.reply: slot for slot in self._slots if slot.reply is not None}
        if not replies:
            time.sleep(timeout_s)
            return
        done, _ = self._ray.wait(list(replies), num_returns=1, timeout=timeout_s)
        for reply in done:
            self._receive(replies[reply])
        for slot in [slot for slot in self._slots if time.monotonic() > slot.due]:
            self._lose(slot, f"no answer within {self._patience.job:g} s")

    def _receive(self, slot: Slot) -> None:
        from ray.exceptions import RayError, RayTaskError

        answer: object
        try:
            answer = self._ray.get(slot.reply)
        except RayTaskError as error:  # what the worker's own code raised
            if isinstance(error.cause, DeviceLost):
                self._lose(slot, str(error.cause))
                return
            answer = failure(error.cause if isinstance(error.cause, BaseException) else error)
        except RayError as error:
            self._lose(slot, _short(error))
            return
        except Exception as error:  # the answer is of a class that is unknown here
            answer = Failure(ERROR, f"the worker's answer cannot be read: {reason(error)}")
        if isinstance(answer, Failure) and answer.kind == NOT_READY:
            self._lose(slot, answer.reason, by_job=False)
            return
        slot.reply, slot.due = None, float("inf")
        if slot.task is not None:
            task, slot.task = slot.task, None
            self._losses[slot.node, slot.gpu] = 0
            self._answer(task, answer)
        elif why := self._objection(slot, answer):
            self._refused[slot.node, slot.gpu] += 1
            self._notices.append(f"{slot.where}: its {slot.gpu} is not asked: {why}")
            self._drop(slot)
        else:
            slot.ready = True

    def _objection(self, slot: Slot, found: object) -> str:
        """Why a worker's times would not be this GPU's; empty if they are."""
        if not isinstance(found, Description):
            return str(found)
        if found.gpu != slot.gpu:
            return (
                f"the device is a {found.gpu or 'GPU without a profile'}: {found.product}. On a machine with"
                " several kinds of GPU start a Ray node for each kind, with CUDA_VISIBLE_DEVICES"
            )
        if slot.gpu == CPU and found.product != cpu_name():
            return f"the CPU is another one than this machine's: {found.product}"
        if "no torch" in found.packages:
            return "torch is not installed there; pip install 'hwsearch[train,ray]'"
        if found.code != self._code:
            return f"hwsearch there times models by other code ({found.code}) than here ({self._code})"
        kind = (found.product, found.packages)
        if (first := self._kinds.setdefault(slot.gpu, kind)) != kind:
            return f"it runs {', '.join(kind)}, others run {', '.join(first)}"
        return ""


def _gone(gpu: str) -> Failure:
    return Failure(DEVICE_GONE, f"no node of the Ray cluster measures {gpu} any more")


def _short(error: Exception) -> str:
    """Ray explains itself on many lines, the cause last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:LONGEST_REASON] if lines else type(error).__name__
