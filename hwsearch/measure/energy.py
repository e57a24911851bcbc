"""Joules of a call by the card's own counter."""

from __future__ import annotations

import time
from collections.abc import Callable

from hwsearch.measure.device import device_in_use, synchronize
from hwsearch.measure.nvml import Watch
from hwsearch.measure.timing import Call

# The device is waited for after this much work, so that the counter is seen to move in time.
BATCH_SECONDS = 0.01
# The counter moves every 0.1 s or so; one that stands still for this long never does.
LONGEST_TICK_SECONDS = 2.0


def joules(call: Call, watch: Watch, seconds: float = 1.0) -> float | None:
    """Energy of the whole card for one call, idle power included; None where the card does not tell.

    The call is repeated for `seconds` at least, from one tick of the counter to another: at 0.1 s a tick a
    shorter time would round to nothing. The L2 is warm, and the launches of small calls leave gaps
    that cost energy as well. Raises what `call` raises.
    """
    if watch.joules() is None:
        return None
    start = time.perf_counter()
    call()
    synchronize(device_in_use())
    repeats = max(1, round(BATCH_SECONDS / max(time.perf_counter() - start, 1e-6)))

    def batch() -> float | None:
        for _ in range(repeats):
            call()
        synchronize(device_in_use())
        return watch.joules()

    _, begin = _batches_until_tick(batch, watch.joules())
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        batch()
        count += 1
    more, end = _batches_until_tick(batch, watch.joules())
    if begin is None or end is None or end < begin:
        return None
    return (end - begin) / (repeats * (count + more))


def _batches_until_tick(batch: Callable[[], float | None], first: float | None) -> tuple[int, float | None]:
    """(batches run, the counter as it has just moved away from `first`; None where it does not move)."""
    start, count = time.perf_counter(), 0
    while True:
        now = batch()
        count += 1
        if now != first:
            return count, now
        if time.perf_counter() - start > LONGEST_TICK_SECONDS:
            return count, None
