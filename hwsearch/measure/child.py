"""Calls that may crash, hang or run out of memory, run in a process of their own.

    with Child(Bench, problem) as child:             # Bench(problem) is built in the child, at the first call
        answer = child.call("time", config, timeout=30.0)
        if isinstance(answer, Failure):
            ...                                      # answer.kind, answer.reason

The object lives on in the child, with its tensors and compiled kernels, until a call takes the child down:
then the next call starts a new child and builds the object anew. `Child(importlib.import_module, "a.b")`
calls the functions of a module. Factory, arguments and answers travel by pickle, so the factory is a name in
a module that can be imported, not in a script.

The child is a fresh interpreter in a session of its own, so Ctrl-C at the terminal reaches the parent alone.
It ends with the parent, however that ends: a thread of the child waits for the end of the socket between
them; while C code keeps that thread from running, the child ends at its own time limit instead.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from hwsearch.measure.failure import CRASH, ERROR, NOT_READY, TIME_OUT, Failure, reason

# Importing torch and opening a CUDA context take seconds, on a cold disk tens of them.
START_SECONDS = 180.0
# How long the parent waits at most before it looks whether the child is still there.
GLANCE_SECONDS = 0.2
# How long a killed process may take to go; one that is stuck in a driver is left behind.
FAREWELL_SECONDS = 10.0
OUTPUT_LINES, OUTPUT_BYTES = 30, 4096
# Linux lets an ordinary user have pipes of this size; most hold a sixteenth of it.
LARGEST_PIPE = 1 << 20

# How long the pickle is that follows.
LENGTH = struct.Struct("!Q")


class Child:
    """A process that holds one object and calls its methods; see the module's docstring.

    One thread at a time may use it. Several children in several threads are fine.
    """

    def __init__(self, factory: Callable[..., object], *arguments: object) -> None:
        """Nothing starts before the first call. Raises what pickle raises if these cannot travel."""
        self._subject = pickle.dumps((factory, arguments))
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, method: str, *arguments: object, timeout: float) -> Any:
        """The method's answer, or a Failure.

        After an exception the child lives on with its object; after anything else it is replaced.

        Args:
            timeout: seconds that the method may take. Starting a child and building its object, where that is
                needed, have a limit of their own, START_SECONDS; a failure there is this call's, NOT_READY.
        """
        request = pickle.dumps((method, arguments, timeout))
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._start()
                built = self._ask(self._subject, START_SECONDS)
                if isinstance(built, Failure):
                    self.close()
                    return Failure(NOT_READY, f"as it started: {built.reason}", built.output)
            return self._ask(request, timeout)
        except BaseException:  # Ctrl-C: the answer that is still to come must not be the next call's
            self.close()
            raise

    def close(self) -> None:
        """End the child and what it started, at once. A later call starts another."""
        if self._process is None:
            return
        process, self._process = self._process, None
        # Its group too: a compiler that it started must not keep a core busy.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(FAREWELL_SECONDS)
        self._channel.close()
        self._prints.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        # Not yet an attribute: if Ctrl-C comes before all is set, it is closed, and the child ends by itself.
        channel, theirs = socket.socketpair()
        with theirs:
            # Where this interpreter finds modules, that one does too.
            path = [entry for entry in sys.path if isinstance(entry, str)]
            code = f"import sys; sys.path[:] = {path!r}; from hwsearch.measure.child_main import serve"
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", f"{code}; serve({theirs.fileno()})"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert process.stdout is not None
        channel.setblocking(False)
        os.set_blocking(process.stdout.fileno(), False)
        self._channel, self._prints, self._printed = channel, process.stdout, b""
        self._process = process

    def _ask(self, request: bytes, seconds: float) -> Any:
        """Send a request and wait for its answer; after a crash or a time-out the child is no more."""
        process = self._process
        assert process is not None
        self._read_output()
        self._printed = b""
        stop = time.monotonic() + seconds
        try:
            self._send(request, stop)
            (length,) = LENGTH.unpack(self._receive(LENGTH.size, stop))
            lost, answer = pickle.loads(self._receive(length, stop))
        except TimeoutError:
            self._ask_where()
            self.close()
            return Failure(TIME_OUT, f"no answer within {seconds:g} s", self._output())
        except EOFError:
            with suppress(subprocess.TimeoutExpired):  # it is on its way out, with a status of its own
                process.wait(FAREWELL_SECONDS)
            ended = _how_it_ended(process.returncode)
            self._read_output()
            self.close()
            return Failure(CRASH, ended, self._output())
        except Exception as error:  # the answer is of a class that the parent lacks
            return Failure(ERROR, f"the answer cannot be read: {reason(error)}")
        if isinstance(answer, Failure):
            self._read_output()
            answer = Failure(answer.kind, answer.reason, self._output())
        if lost:
            self.close()
        return answer

    def _send(self, data: bytes, stop: float) -> None:
        left = memoryview(LENGTH.pack(len(data)) + data)
        while left:
            self._wait(select.POLLOUT, stop)
            try:
                left = left[self._channel.send(left) :]
            except BlockingIOError:
                continue
            except OSError:
                raise EOFError from None

    def _receive(self, count: int, stop: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._wait(select.POLLIN, stop)
            try:
                chunk = self._channel.recv(min(count - len(data), 1 << 20))
            except BlockingIOError:
                continue
            except OSError:
                raise EOFError from None
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _wait(self, event: int, stop: float) -> None:
        """Until the channel is ready for `event` or at its end, reading what the child prints.

        Raises TimeoutError after `stop`, EOFError where the child is gone and has left nothing to read.
        """
        assert self._process is not None
        while True:
            left = stop - time.monotonic()
            if left <= 0:
                raise TimeoutError
            # Asked before looking: what a process sent before its end is still there.
            gone = self._process.poll() is not None
            poll = select.poll()
            poll.register(self._channel, event)
            if not self._prints.closed:
                poll.register(self._prints, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(1e3 * min(left, GLANCE_SECONDS))]
            self._read_output()
            if self._channel.fileno() in ready:
                return
            if gone:
                raise EOFError

    def _read_output(self) -> None:
        """Keep the end of what a pipe may hold; a child that never stops printing is not waited for."""
        left = LARGEST_PIPE
        while left > 0 and not self._prints.closed:
            chunk = self._prints.read(left)
            if chunk is None:  # nothing now
                return
            if not chunk:  # the child has closed its side
                self._prints.close()
            left -= len(chunk)
            self._printed = (self._printed + chunk)[-OUTPUT_BYTES:]

    def _ask_where(self) -> None:
        """Let a child that hangs print where it does: faulthandler there answers this signal."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        time.sleep(GLANCE_SECONDS / 4)
        self._read_output()

    def _output(self) -> str:
        lines = self._printed.decode(errors="replace").splitlines()
        return "\n".join(lines[-OUTPUT_LINES:])


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "the process closed its socket"
    if status >= 0:
        return f"the process ended with exit status {status}"
    with suppress(ValueError):
        name = signal.Signals(-status).name
        why = ", as when the host runs out of memory" if -status == signal.SIGKILL else ""
        return f"the process was killed by {name}{why}"
    return f"the process was killed by signal {-status}"
