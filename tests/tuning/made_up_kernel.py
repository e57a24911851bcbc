"""A kernel for tests of the tuner: it sleeps as long as its configuration says, or goes wrong in every way.

Children import it by name.
"""

from __future__ import annotations

import ctypes
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from hwsearch.tuning.kernel import Config, WrongResult


@dataclass(frozen=True)
class MadeUpKernel:
    """
    Attributes:
        ways: configurations by name, of which the first is the default: "sleep 3" takes 3 ms, "noisy 3"
            3 to 6; others are listed in `go_wrong` and `compile`.
        log: a file with a line for every run of a configuration, or empty.
    """

    ways: tuple[str, ...]
    log: str = ""
    compiles: bool = True
    device: str = "cpu"

    def configurations(self) -> list[Config]:
        return [{"way": way} for way in self.ways]

    def default(self) -> Config:
        return {"way": self.ways[0]}

    def compile(self, config: Config) -> str:
        way = str(config["way"])
        if way == "does not compile":
            raise RuntimeError("PassManager::run failed")
        if way == "hangs the compiler":
            time.sleep(60)
        if way == "crashes the compiler":
            ctypes.string_at(0)
        return "the same" if way.endswith("again") else way

    def open(self) -> OpenMadeUpKernel:
        if "no device" in self.ways:
            raise RuntimeError("no device")
        return OpenMadeUpKernel(self)


class OpenMadeUpKernel:
    def __init__(self, kernel: MadeUpKernel) -> None:
        self._log = kernel.log

    def call(self, config: Config) -> Callable[[], object]:
        way = str(config["way"])
        kind, _, number = way.partition(" ")

        def run() -> None:
            if self._log:
                with open(self._log, "a") as file:
                    file.write(f"{os.getpid()} {way}\n")
            go_wrong(way)
            if kind in ("sleep", "noisy"):
                wanted = float(number.split()[0]) / 1e3
                time.sleep(wanted * (1 + (kind == "noisy") * random.random()))

        return run

    def check(self, config: Config) -> None:
        self.call(config)()
        if config["way"] == "wrong":
            raise WrongResult("out is off by 1; accepted: 0.1")


def go_wrong(way: str) -> None:
    if way == "segfault":
        ctypes.string_at(0)
    if way == "hang":
        time.sleep(60)
    if way == "raise":
        raise ValueError("an illegal instruction was encountered")
    if way == "exit":
        os._exit(3)
    if way == "out of memory":
        raise MemoryError("CUDA out of memory")
