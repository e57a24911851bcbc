"""A measured run whose devices are made up but whose processes are real: what benchmarks/kill.py kills.

python benchmarks/kill_run.py SPACE OUT STORAGE COUNT DEVICE_LOG LEASE_S
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search.measured.local_engine import Device, LocalEngine
from hwsearch.search.measured.rung import measure_front
from hwsearch.search.run import run
from hwsearch.space.search_space import load_space


class Timer:
    """In a process of its own, as a real measurement."""

    def __init__(self, log: Path, owner: str, device: Device) -> None:
        self._about = device.gpu, owner, str(log)

    def measure(self, job: Job) -> Row | Failure:
        with Child(importlib.import_module, "kill_worker") as child:
            answer: Row | Failure = child.call("work", job, *self._about, timeout=60.0)
        return answer

    def close(self) -> None:
        """Nothing is left between two jobs."""


def main(space: str, out: str, storage: str, count: str, log: str, lease_s: str) -> int:
    try:
        loaded = load_space(space)
        predicted = run(loaded, out=Path(out), storage=storage, trials=3)
        devices = [Device(gpu.name, "made up") for gpu in loaded.gpus]
        engine = LocalEngine(
            devices, timer_of=partial(Timer, Path(log), Path(out).name), present=lambda device: True
        )
        # A lease shorter than a real run's: the others need not wait a minute for what the dead had.
        measure_front(
            predicted, engine, count=int(count), storage=storage, lease_s=float(lease_s), warn=print
        )
    except HwsearchError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
