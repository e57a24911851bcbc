"""What runs on the nodes of a Ray cluster: one actor a device, that times jobs and nothing else.

All that is imported here is needed on every node; Ray and Optuna are not.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU
from hwsearch.gpu.visible import visible
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure import device
from hwsearch.measure.failure import ERROR, Failure
from hwsearch.measure.job import Job
from hwsearch.search.engine import Row
from hwsearch.search.measurements import DECISIVE

# The code that a time depends on. Not imported for that: a model needs torch, which takes seconds.
DECISIVE_CODE = ("hwsearch.kernels", "hwsearch.measure", "hwsearch.model", "hwsearch.shape")


@dataclass(frozen=True)
class Description:
    """What a worker says of itself.

    Attributes:
        gpu: the profile that its device is, None where it is none.
        product: the device's name, and why it has no profile.
        code: digest of the code that builds and times models.
        packages: versions that decide how fast a shape is, as text.
        host: the machine's name.
    """

    gpu: str | None
    product: str
    code: str
    packages: str
    host: str


class Worker:
    """The one GPU that Ray lets this process see, or the CPU. Each job runs in a process of its own."""

    def __init__(self, gpu: str, precision: float, timeout_s: float) -> None:
        self._gpu, self._precision, self._timeout_s = gpu, precision, timeout_s
        # Ray counts GPUs as NVML does; CUDA by itself would put the fastest first.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"

    def describe(self) -> Description:
        gpu, product = self.device()
        return Description(gpu, product, code(), packages(), platform.node())

    def device(self) -> tuple[str | None, str]:
        """The device's profile and its name."""
        if self._gpu == CPU:
            return CPU, cpu_name()
        for found in visible():
            if found.index >= 0:
                name = found.gpu.name if found.gpu is not None else None
                return name, " ".join([found.nvml_name, *([f"({found.note})"] if found.note else [])])
        return None, "no GPU"

    def measure(self, job: Job) -> Row | Failure:
        """A job's row. What came over the wire is checked once more: nothing but a valid shape is run."""
        if not isinstance(job, Job):
            return Failure(ERROR, f"not accepted: a {type(job).__name__}, where jobs are measured")
        try:
            job.check()
        except HwsearchError as error:
            return Failure(ERROR, f"not accepted: {error}")
        return self.run(job)

    def run(self, job: Job) -> Row | Failure:
        from hwsearch.measure.encoder import measure_job

        return measure_job(
            job,
            device=device.CPU if self._gpu == CPU else device.CUDA,
            index=0,
            precision=self._precision,
            timeout_s=self._timeout_s,
        )


def code() -> str:
    """Digest of the code that builds and times models: two machines whose times may be compared share it."""
    digest = hashlib.sha256()
    for package in DECISIVE_CODE:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(folder).glob("**/*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def packages() -> str:
    found = []
    for name in DECISIVE:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
