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

from hwsearch.measure.child import LENGTH
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
