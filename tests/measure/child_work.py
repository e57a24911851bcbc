"""What a child is asked to do in the tests; imported there by name."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import cast


class Worker:
    """Counts its calls, so that a test sees whether it is still the same object."""

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise ValueError("no count below 0")
        self.count = start

    def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def process(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        print("about to fail")
        raise ValueError("no such tile\nand more")

    def leave(self) -> None:
        sys.exit("enough")

    def crash(self) -> None:
        print("about to crash")
        ctypes.string_at(0)

    def end(self, status: int) -> None:
        os._exit(status)

    def hang(self) -> None:
        while True:
            pass

    def hang_in_c(self) -> None:
        """As a hang in a library that keeps the interpreter's lock."""
        ctypes.PyDLL(None).sleep(1000)

    def chatter(self) -> None:
        while True:
            print("x" * 1000)

    def close_output(self) -> None:
        os.close(1)
        os.close(2)

    def run_out_of_memory(self) -> None:
        raise MemoryError

    def lose_device(self) -> None:
        """As torch after an illegal access: whatever asks the device finds the same error."""

        def refuse() -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

        cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=refuse, empty_cache=refuse)
        sys.modules["torch"] = cast(ModuleType, SimpleNamespace(cuda=cuda))

    def bytes_of(self, count: int) -> bytes:
        return bytes(count)

    def length(self, data: bytes) -> int:
        return len(data)

    def closure(self) -> Callable[[], None]:
        return lambda: None

    def start_sleeper(self) -> int:
        """A process that this one starts, as a compiler is."""
        return subprocess.Popen(["sleep", "1000"]).pid

    def start_sleeper_and_hang(self, file: str) -> None:
        with open(file, "w") as out:
            out.write(f"{os.getpid()} {self.start_sleeper()}\n")
        time.sleep(1000)


class GpuWorker:
    """Holds a tensor on the GPU."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.tensor = torch.ones(1000, device="cuda")

    def sum(self) -> float:
        return float(self.tensor.sum())

    def read_outside(self) -> None:
        """Returns before the device has failed."""
        self.tensor[self.torch.tensor([1 << 40], device="cuda")] + 1

    def take_all_memory(self) -> None:
        self.torch.empty(1 << 50, dtype=self.torch.uint8, device="cuda")
