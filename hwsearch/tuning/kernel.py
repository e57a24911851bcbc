"""What the tuner asks of a kernel. It knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hwsearch.errors import HwsearchError
from hwsearch.tuning.tuning_space import Setting

Config = dict[str, Setting]


class WrongResult(Exception):
    """A configuration that runs, and computes something else."""


class NothingRuns(HwsearchError):
    """No configuration of one problem runs, or can be had; another problem's may."""


class Opened(Protocol):
    """A kernel on the device, in the process that owns it: inputs, and the truth to compare with."""

    def call(self, config: Config) -> Callable[[], object]:
        """One run of the kernel as it is timed; on a GPU it returns before the device has finished."""

    def check(self, config: Config) -> None:
        """Run it and raise WrongResult unless it computes what it should."""


class Kernel(Protocol):
    """One kernel, on one device and one workload, to be tuned. Plain data that travels by pickle.

    Attributes:
        device: "cuda", the current CUDA device, or "cpu".
        compiles: whether `compile` does anything.
    """

    @property
    def device(self) -> str: ...

    @property
    def compiles(self) -> bool: ...

    def configurations(self) -> list[Config]:
        """All that may run, by what is known before anything is compiled; the default among them."""

    def default(self) -> Config:
        """What runs where nothing was tuned."""

    def compile(self, config: Config) -> str:
        """Put machine code into the compiler's cache on disk, without the device; its digest.

        Raises whatever the compiler raises, and ValueError for code that cannot run on the device.
        """

    def open(self) -> Opened: ...
