"""The devices of this machine as an engine: a thread for each, which runs one job after the other."""

from __future__ import annotations

import importlib
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hwsearch.errors import HwsearchError
from hwsearch.gpu.detect import detect
from hwsearch.gpu.profile import CPU
from hwsearch.measure.child import Child
from hwsearch.measure.device import CPU as ON_CPU
from hwsearch.measure.device import CUDA
from hwsearch.measure.encoder import measure_job
from hwsearch.measure.failure import ERROR, Failure, reason
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search.engine import DEVICE_GONE, Answer

# Asking torch which GPUs it sees; the start of a process aside.
LOOK_SECONDS = 120.0


@dataclass(frozen=True)
class Device:
    """`gpu` is its profile's name; `kind` and `index` are as `measure_job` takes them."""

    gpu: str
    kind: str
    index: int = 0


Measure = Callable[[Job, Device], "Row | Failure"]
Present = Callable[[Device], bool]


def local_devices(basket: Collection[str]) -> list[Device]:
    """The devices of this machine that a basket names. Raises HwsearchError where there is none of them."""
    found = [Device(CPU, ON_CPU)]
    if any(one.index >= 0 for one in detect()):
        found += _gpus()
    if not (asked := [device for device in found if device.gpu in basket]):
        at_hand = ", ".join(sorted({device.gpu for device in found}))
        raise HwsearchError(
            f"--rung measure: no device here measures any GPU of the basket ({', '.join(basket)}); what is at"
            f" hand: {at_hand}. Take --gpus with one of these, or `--rung predict`, which needs no device"
        )
    return asked


def _gpus() -> list[Device]:
    with Child(importlib.import_module, __name__) as child:
        names = child.call("visible_profiles", timeout=LOOK_SECONDS)
    if isinstance(names, Failure):
        raise HwsearchError(f"--rung measure: torch cannot be asked which GPUs it sees: {names}")
    return [Device(name, CUDA, index) for index, name in enumerate(names) if name is not None]


def visible_profiles() -> list[str | None]:
    """Profile of each GPU that this process sees, in PCI order; None for one that no profile describes."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    import torch

    from hwsearch.measure.here import profile_name
    from hwsearch.measure.nvml import watch_cuda

    names = []
    for index in range(torch.cuda.device_count()):
        torch.cuda.set_device(index)
        names.append(profile_name(watch_cuda()))
    return names


class LocalEngine:
    """See `Engine`. Each device has a thread of its own and takes the next job of its GPU's queue.

    A GPU whose device does not answer after a failed job is gone: the others of its kind go on.
    """

    def __init__(
        self, devices: Sequence[Device], measure: Measure | None = None, present: Present | None = None
    ) -> None:
        """`measure` and `present` (is the device still there?) are for tests."""
        self._measure = measure or _measure
        self._present = present or _present
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._jobs: dict[str, queue.SimpleQueue[tuple[int, Job] | None]] = {
            device.gpu: queue.SimpleQueue() for device in devices
        }
        self._slots = Counter(device.gpu for device in devices)
        self._lock = threading.Lock()
        for device in devices:
            # As a daemon: a process that ends does not wait for a measurement, whose child ends with it.
            threading.Thread(target=self._serve, args=(device,), daemon=True).start()

    @property
    def gpus(self) -> frozenset[str]:
        return frozenset(gpu for gpu, slots in self._slots.items() if slots)

    def slots(self, gpu: str) -> int:
        return self._slots[gpu]

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        with self._lock:
            if self._slots[gpu]:
                self._jobs[gpu].put((ticket, job))
                return
        self._answers.put(_gone(ticket, gpu))

    def next(self, timeout_s: float) -> Answer | None:
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        for gpu, slots in self._slots.items():
            for _ in range(slots):
                self._jobs[gpu].put(None)

    def _serve(self, device: Device) -> None:
        jobs = self._jobs[device.gpu]
        while (asked := jobs.get()) is not None:
            ticket, job = asked
            try:
                found = self._measure(job, device)
            except Exception as error:  # whatever it is, it is this job's
                found = Failure(ERROR, reason(error))
            if not isinstance(found, Failure):
                self._answers.put(Answer(ticket, device.gpu, found, None))
            elif self._present(device):
                self._answers.put(Answer(ticket, device.gpu, None, found))
            else:
                self._leave(device, ticket, job)
                return

    def _leave(self, device: Device, ticket: int, job: Job) -> None:
        """The device is gone: another of its kind takes the job, or all that wait get the same answer."""
        with self._lock:
            self._slots[device.gpu] -= 1
            self._jobs[device.gpu].put((ticket, job))
            if self._slots[device.gpu]:
                return
            jobs = self._jobs[device.gpu]
            while not jobs.empty():
                if (waiting := jobs.get()) is not None:
                    self._answers.put(_gone(waiting[0], device.gpu))


def _measure(job: Job, device: Device) -> Row | Failure:
    return measure_job(job, device=device.kind, index=device.index)


def _present(device: Device) -> bool:
    """Whether the machine still has the device."""
    if device.kind == ON_CPU:
        return True
    with Child(importlib.import_module, __name__) as child:
        names = child.call("visible_profiles", timeout=LOOK_SECONDS)
    return not isinstance(names, Failure) and names[device.index : device.index + 1] == [device.gpu]


def _gone(ticket: int, gpu: str) -> Answer:
    return Answer(
        ticket, gpu, None, Failure(DEVICE_GONE, f"no device of this machine measures {gpu} any more")
    )
