"""Compiles configurations in processes of their own, while the device measures others."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure, failure
from hwsearch.tuning.kernel import Config, Kernel


class CompileAhead:
    """`workers` processes that fill the compiler's cache on disk; one that crashes or hangs is replaced.

    Without workers, or for a kernel that needs none, everything counts as compiled: the process that
    measures will do it.
    """

    def __init__(self, kernel: Kernel, workers: int, timeout_s: float) -> None:
        self._kernel = kernel
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(workers) if workers and kernel.compiles else None
        self._children: list[Child] = []
        self._own = threading.local()  # a child serves one thread

    def submit(self, config: Config) -> Future[str | Failure]:
        """The digest of the machine code, empty if unknown; or why there is none."""
        if self._pool is None:
            done: Future[str | Failure] = Future()
            done.set_result("")
            return done
        return self._pool.submit(self._compiled, config)

    def __enter__(self) -> CompileAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._close()
            self._pool.shutdown()
            self._close()  # what a thread was about to start

    def _close(self) -> None:
        for child in self._children:
            child.close()

    def _compiled(self, config: Config) -> str | Failure:
        if not hasattr(self._own, "child"):
            self._own.child = Child(itself, self._kernel)
            self._children.append(self._own.child)
        try:
            answer: str | Failure = self._own.child.call("compile", config, timeout=self._timeout_s)
        except Exception as error:  # the child was closed under it
            return failure(error)
        return answer


def itself(kernel: Kernel) -> Kernel:
    """What a child builds from a kernel that was sent to it."""
    return kernel
