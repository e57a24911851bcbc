"""The devices of this machine as an engine: a thread for each, which runs one job after the other.

A thread has a timer (EncoderTimer), whose process lives on for the next workload of a shape. Between two jobs
it holds memory of its device and no core; what else runs on a GPU at that time has less of it.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU
from hwsearch.gpu.visible import visible
from hwsearch.measure import device as kinds
from hwsearch.measure.encoder import EncoderTimer
from hwsearch.measure.failure import CRASH, NOT_READY, Failure, failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search.measured.engine import DEVICE_GONE, Answer

# A job whose device goes away is tried on another one of its kind; where that goes too, the job is to blame.
MOST_LOST = 2
# A device on which so many jobs in a row could not even begin is given up.
MOST_UNREADY = 3


@dataclass(frozen=True)
class Device:
    """`gpu` is its profile's name, `uuid` NVML's; `kind` and `index` are as EncoderTimer takes them."""

    gpu: str
    kind: str
    index: int = 0
    uuid: str = ""


class Timer(Protocol):
    """What EncoderTimer does; one thread uses it."""

    def measure(self, job: Job) -> Row | Failure: ...

    def close(self) -> None: ...


TimerOf = Callable[[Device], Timer]
Present = Callable[[Device], bool]


def local_devices(basket: Collection[str]) -> list[Device]:
    """The devices of this machine that a basket names. Raises HwsearchError where there is none of them."""
    if find_spec("torch") is None:
        raise HwsearchError(
            "--rung measure needs the package torch; install it with: pip install 'hwsearch[train]'"
        )
    found = [
        Device(one.gpu.name, kinds.CUDA, index, one.uuid)
        for index, one in enumerate(visible())
        if one.gpu is not None and one.index >= 0
    ]
    found.append(Device(CPU, kinds.CPU))
    if not (asked := [device for device in found if device.gpu in basket]):
        at_hand = ", ".join(dict.fromkeys(device.gpu for device in found))
        raise HwsearchError(
            f"--rung measure: no device here measures any GPU of the basket ({', '.join(basket)}); what is at"
            f" hand: {at_hand}. Take --gpus with one of these, or --rung predict, which needs no device"
        )
    return asked


class LocalEngine:
    """See `Engine`. Each device has a thread of its own and takes the next job of its GPU's queue, one of the
    model that its process holds before others.

    A device that the machine has no longer after a failed job is gone, and so is one that is not ready for
    any job; others of its kind go on.
    """

    def __init__(
        self, devices: Sequence[Device], timer_of: TimerOf | None = None, present: Present | None = None
    ) -> None:
        """`timer_of` makes what runs jobs, `present` says whether a device is still there; tests give their
        own."""
        self._timer_of, self._present = timer_of or _timer_of, present or _present
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._changed = threading.Condition()  # guards what follows
        self._jobs: dict[str, deque[tuple[int, Job]]] = {device.gpu: deque() for device in devices}
        self._slots = Counter(device.gpu for device in devices)
        # The model that a device's process holds, while it waits for a job: others leave it the next of that.
        self._held: dict[Device, object] = {}
        self._lost: Counter[int] = Counter()
        self._why_gone: dict[str, str] = {}
        self._closed = False
        for device in devices:
            # A daemon: a process that ends does not wait for its measurement, whose own process ends with it.
            threading.Thread(target=self._serve, args=(device,), daemon=True).start()

    @property
    def gpus(self) -> frozenset[str]:
        with self._changed:
            return frozenset(gpu for gpu, slots in self._slots.items() if slots)

    def slots(self, gpu: str) -> int:
        with self._changed:
            return self._slots[gpu]

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        with self._changed:
            if not self._slots[gpu]:
                self._answers.put(self._gone(ticket, gpu))
                return
            self._jobs[gpu].append((ticket, job))
            self._changed.notify_all()

    def next(self, timeout_s: float) -> Answer | None:
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """What runs is not waited for: its answer goes nowhere, its process ends by itself or with ours."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _serve(self, device: Device) -> None:
        with closing(self._timer_of(device)) as timer:
            self._run(device, timer)

    def _run(self, device: Device, timer: Timer) -> None:
        unready = 0
        while (asked := self._take(device)) is not None:
            ticket, job = asked
            try:
                found = timer.measure(job)
            except Exception as error:
                found = failure(error)
            if not isinstance(found, Failure):
                with self._changed:  # before the answer, which may bring the next job of the model
                    self._held[device] = job.model
                self._answers.put(Answer(ticket, device.gpu, found, None))
                unready = 0
            elif not self._present(device):
                self._lost[ticket] += 1
                self._leave(device, ticket, job, "it went away")
                return
            elif found.kind != NOT_READY:
                self._answers.put(Answer(ticket, device.gpu, None, found))
                unready = 0
            elif (unready := unready + 1) == MOST_UNREADY:
                self._leave(device, ticket, job, found.reason)
                return
            else:
                self._put_back(device.gpu, ticket, job)

    def _take(self, device: Device) -> tuple[int, Job] | None:
        """The next job for a device; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next_for(device))
            if self._closed or (asked := self._next_for(device)) is None:
                return None
            self._held.pop(device, None)
            self._jobs[device.gpu].remove(asked)
            self._changed.notify_all()  # what was left for this device is now for all
            return asked

    def _next_for(self, device: Device) -> tuple[int, Job] | None:
        """A job of the model that its process holds, else the first that no other process waits for."""
        jobs, own = self._jobs[device.gpu], self._held.get(device)
        others = [model for each, model in self._held.items() if each.gpu == device.gpu and each != device]
        mine = [asked for asked in jobs if asked[1].model == own]
        free = [asked for asked in jobs if asked[1].model not in others]
        return next(iter([*mine, *free]), None)

    def _put_back(self, gpu: str, ticket: int, job: Job) -> None:
        with self._changed:
            self._jobs[gpu].appendleft((ticket, job))
            self._changed.notify_all()

    def _leave(self, device: Device, ticket: int, job: Job, why: str) -> None:
        """Another device of its kind takes the job, or all that wait learn that there is none."""
        with self._changed:
            self._slots[device.gpu] -= 1
            self._why_gone[device.gpu] = why
            if self._lost[ticket] == MOST_LOST:
                blamed = Failure(CRASH, f"{MOST_LOST} devices went away while they ran it")
                self._answers.put(Answer(ticket, device.gpu, None, blamed))
            else:
                self._jobs[device.gpu].appendleft((ticket, job))
            if not self._slots[device.gpu]:
                while self._jobs[device.gpu]:
                    waiting, _ = self._jobs[device.gpu].popleft()
                    self._answers.put(self._gone(waiting, device.gpu))
            self._changed.notify_all()

    def _gone(self, ticket: int, gpu: str) -> Answer:
        why = f": {self._why_gone[gpu]}" if gpu in self._why_gone else ""
        return Answer(
            ticket, gpu, None, Failure(DEVICE_GONE, f"no device of this machine measures it any more{why}")
        )


def _timer_of(device: Device) -> Timer:
    return EncoderTimer(device.kind, device.index)


def _present(device: Device) -> bool:
    """Whether the machine still has the device and it answers."""
    if not device.uuid:
        return True
    import pynvml  # by which the device was found

    try:
        pynvml.nvmlInit()
        pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(device.uuid))
    except pynvml.NVMLError:
        return False
    return True
