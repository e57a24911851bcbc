"""triton.autotune's loop, given a number of seconds, and its winner against ours.

It compiles and times one configuration after another, all of them, in one process. Here it stops after so
many seconds, takes the same configurations in random order, times them with Triton's own do_bench and starts
from an empty compiler cache. One that crashes costs it no more than that; triton.autotune would end there.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hwsearch.kernels.triton_attention.space import trimmed
from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure
from hwsearch.measure.race import Comparison
from hwsearch.measure.timing import sample, warm_up
from hwsearch.tuning.final_race import LIMITS
from hwsearch.tuning.kernel import Config, Kernel
from hwsearch.tuning.workshop import Workshop

# One configuration that hangs must not take the whole budget.
LONGEST_CALL_S = 30.0


def autotuned(
    kernel: Kernel, winner: Mapping[str, Any], seconds: float, workshop: Workshop
) -> dict[str, Any]:
    """What the loop finds in `seconds`, and `winner`, as a table has it, against that.

    `ours_over_it` is the ratio of their seconds, in turn; None where one of the two no longer runs.
    """
    configs = kernel.configurations()
    ours = next(config for config in configs if trimmed(config) == winner)
    random.Random(0).shuffle(configs)
    times: list[tuple[float, int]] = []
    tried = 0
    with _empty_compiler_cache(), Child(Autotune, kernel) as child:
        # Its process starts, and makes the inputs, on nobody's time.
        if isinstance(failed := child.call("ready", timeout=LIMITS.open_s), Failure):
            return {"tried": 0, "reason": str(failed)}
        stop = time.monotonic() + seconds
        for place, config in enumerate(configs):
            if time.monotonic() >= stop:
                break
            answer = child.call("seconds", config, timeout=LONGEST_CALL_S)
            tried += 1
            if not isinstance(answer, Failure):
                times.append((float(answer), place))
    found: dict[str, Any] = {"tried": tried, "failures": tried - len(times), "spent_s": seconds}
    if not times:
        return found
    best = configs[min(times)[1]]
    found |= {"config": best, "ours_over_it": 1.0}
    if best != ours:
        bench = workshop.bench(kernel)
        bench.call("prepare", None, timeout=LIMITS.open_s)
        duel = bench.call("duel", ours, best, False, LIMITS.most_rounds, LIMITS.risk, timeout=LIMITS.trial_s)
        if isinstance(duel, Comparison):
            found |= {"ours_over_it": duel.ratio, "low": duel.low, "high": duel.high}
        else:
            found |= {"ours_over_it": None, "reason": str(duel)}
    return found


class Autotune:
    """One step of triton.autotune's loop, in a process of its own."""

    def __init__(self, kernel: Kernel) -> None:
        self._device = kernel.device
        self._opened = kernel.open()

    def ready(self) -> None:
        """Answers as soon as the inputs are there."""

    def seconds(self, config: Config) -> float:
        call = self._opened.call(config)
        if self._device == "cpu":
            return sample(warm_up(call, "cpu"))
        from triton.testing import do_bench

        return float(do_bench(call, quantiles=[0.5])) / 1e3


@contextmanager
def _empty_compiler_cache() -> Iterator[None]:
    before = os.environ.get("TRITON_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TRITON_CACHE_DIR"]
            else:
                os.environ["TRITON_CACHE_DIR"] = before
