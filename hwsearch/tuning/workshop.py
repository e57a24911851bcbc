"""The processes that a tuner works with: one owns the device, others compile ahead of it.

They start once, which takes as long as importing torch does, and serve one kernel after another.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure, failure
from hwsearch.tuning.bench import Bench
from hwsearch.tuning.kernel import Config, Kernel


@dataclass(frozen=True)
class Compiled:
    """A digest of the machine code, empty if unknown, and the seconds that it took."""

    code: str
    seconds: float


class Workshop:
    """
    Attributes:
        workers: processes that compile; without any, the bench compiles what it runs.
    """

    def __init__(self, workers: int) -> None:
        self._bench = Child(Bench)
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._children: list[Child] = []
        self._own = threading.local()  # a child serves one thread

    def bench(self, kernel: Kernel) -> Desk:
        """Where `kernel` is run."""
        return Desk(self._bench, kernel)

    def compile(self, kernel: Kernel, config: Config, timeout_s: float) -> Future[Compiled | Failure]:
        """To be: what it came to, or why there is no machine code."""
        if self._pool is None or not kernel.compiles:
            done: Future[Compiled | Failure] = Future()
            done.set_result(Compiled("", 0.0))
            return done
        return self._pool.submit(self._compiled, kernel, config, timeout_s)

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bench.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._close()
            self._pool.shutdown()
            self._close()  # what a thread was about to start

    def _close(self) -> None:
        for child in self._children:
            child.close()

    def _compiled(self, kernel: Kernel, config: Config, timeout_s: float) -> Compiled | Failure:
        if not hasattr(self._own, "child"):
            self._own.child = Child(Compiler)
            self._children.append(self._own.child)
        try:
            answer: Compiled | Failure = self._own.child.call("compile", kernel, config, timeout=timeout_s)
        except Exception as error:  # the child was closed under it
            return failure(error)
        return answer


@dataclass(frozen=True)
class Desk:
    """The bench, for one kernel."""

    child: Child
    kernel: Kernel

    def call(self, method: str, *arguments: object, timeout: float) -> Any:
        """The answer of that method of `bench.Races`, or a Failure."""
        return self.child.call("run", self.kernel, method, *arguments, timeout=timeout)


class Compiler:
    """Lives in a child: a compiler may crash and hang."""

    def compile(self, kernel: Kernel, config: Config) -> Compiled:
        start = time.perf_counter()
        return Compiled(kernel.compile(config), time.perf_counter() - start)
