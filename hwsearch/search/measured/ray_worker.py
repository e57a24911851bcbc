"""What runs on the nodes of a Ray cluster: an actor for each device, that times jobs and nothing else.

Neither Ray nor Optuna is imported here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU
from hwsearch.gpu.visible import visible
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure import device
from hwsearch.measure.code import timed_code
from hwsearch.measure.device import DeviceLost
from hwsearch.measure.encoder import EncoderTimer
from hwsearch.measure.failure import ERROR, Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import DECISIVE, Row


@dataclass(frozen=True)
class Description:
    """What a worker says of itself.

    Attributes:
        gpu: the profile that its device is; None where it is none.
        product: the device's name, and why it has no profile.
        code: digest of the code that builds and times models.
        packages: versions of those that decide how fast a shape is.
    """

    gpu: str | None
    product: str
    code: str
    packages: str


class Worker:
    """The one GPU that Ray lets this process see, or the CPU. Each model runs in a process of its own, which
    ends with this one."""

    def __init__(self, gpu: str) -> None:
        self._gpu = gpu
        # Ray counts GPUs as NVML does; CUDA by itself would put the fastest first.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        _undo_limits()
        self._timer = EncoderTimer(device.CPU if gpu == CPU else device.CUDA)

    def describe(self) -> Description:
        gpu, product = self.device()
        return Description(gpu, product, timed_code(), packages())

    def measure(self, job: Job) -> Row | Failure:
        """A job's row. What came over the wire is checked once more: nothing but a valid shape is run.

        Raises DeviceLost where the device is not, or no longer, what it was: the job is not to blame.
        """
        if not isinstance(job, Job):
            return Failure(ERROR, f"not accepted: a {type(job).__name__}, where jobs are measured")
        try:
            job.check()
        except HwsearchError as error:
            return Failure(ERROR, f"not accepted: {error}")
        found = self.run(job)
        if isinstance(found, Failure):
            gpu, product = self.device()
        else:
            gpu, product = found["gpu"], found["device"]
        if gpu != self._gpu:
            raise DeviceLost(f"it is no {self._gpu} any more: {product}")
        return found

    def device(self) -> tuple[str | None, str]:
        """The device's profile and its name, as NVML has them."""
        if self._gpu == CPU:
            return CPU, cpu_name()
        gpus = [found for found in visible() if found.index >= 0]
        if not gpus:
            return None, "NVML finds no GPU"
        profile, name = gpus[0].gpu, gpus[0].nvml_name
        return (profile.name, name) if profile is not None else (None, f"{name}: {gpus[0].note}")

    def run(self, job: Job) -> Row | Failure:
        return self._timer.measure(job)


def _undo_limits() -> None:
    """Ray gives workers one thread and a low priority; a measurement gets what it gets elsewhere."""
    with suppress(OSError):
        if b"OMP_NUM_THREADS=" not in Path("/proc/self/environ").read_bytes():  # not asked for by the user
            os.environ.pop("OMP_NUM_THREADS", None)
    with suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def packages() -> str:
    found = []
    for name in DECISIVE:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
