"""The other side of hwsearch.measure.child: what runs in the child process."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from io import BufferedRWPair

from hwsearch.measure.child import LENGTH, START_SECONDS
from hwsearch.measure.device import DeviceLost, check_device, device_in_use, synchronize
from hwsearch.measure.failure import CRASH, ERROR, Failure, failure

# An answer is figures. What is larger is a mistake, and must not take the parent's memory.
LARGEST_ANSWER = 64 << 20
# By this much a child outlives its time limit where its parent is gone and C code holds the interpreter.
GRACE_SECONDS = 10.0


def serve(descriptor: int) -> None:
    """Build the object, answer calls until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    faulthandler.enable(all_threads=False)  # a crash says where
    faulthandler.register(signal.SIGUSR1, all_threads=False)  # so does a hang, before the parent ends it
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    stream = channel.makefile("rwb")
    subject: list[object] = []

    def build() -> None:
        factory, arguments = pickle.loads(_receive(stream))
        subject.append(factory(*arguments))

    def answer() -> object:
        method, arguments, timeout = pickle.loads(request)
        _end_after(timeout)
        return getattr(subject[0], method)(*arguments)

    _end_after(START_SECONDS)
    _send(stream, _performed(build))
    while True:
        faulthandler.cancel_dump_traceback_later()
        request = _receive(stream)
        _send(stream, _performed(answer))


def _performed(action: Callable[[], object]) -> bytes:
    """The pickle of (whether this process is of no more use, the answer or Failure)."""
    try:
        answer = action()
        # What the device makes of it is part of the call: the next one must not pay for it.
        synchronize(device_in_use())
        data = pickle.dumps((False, answer))
        if len(data) <= LARGEST_ANSWER:
            return data
        failed = Failure(ERROR, f"an answer of {len(data):,} bytes, at most {LARGEST_ANSWER:,} are accepted")
    except BaseException as error:  # SystemExit too
        with suppress(Exception):
            traceback.print_exc()
        failed = failure(error)
    # The traceback is gone by now, and with it the tensors that it held.
    try:
        check_device(device_in_use())
    except DeviceLost as lost:
        return pickle.dumps((True, Failure(CRASH, f"the CUDA context is lost: {failed.reason} ({lost})")))
    return pickle.dumps((False, failed))


def _receive(stream: BufferedRWPair) -> bytes:
    """The next message; without one, as the parent is gone, this process ends."""
    head = stream.read(LENGTH.size)
    if len(head) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        data = stream.read(length)
        if len(data) == length:
            return data
    os._exit(0)


def _send(stream: BufferedRWPair, data: bytes) -> None:
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def _end_after(seconds: float) -> None:
    """For calls in which the thread that watches the parent cannot run."""
    faulthandler.dump_traceback_later(min(seconds + GRACE_SECONDS, threading.TIMEOUT_MAX), exit=True)


def _end_with_parent(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # wakes up when the other end is closed, not when a request comes
    poll.poll()
    os.killpg(0, signal.SIGKILL)
