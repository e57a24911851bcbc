"""A worker that measures nothing: it sleeps and says who it was. Imported by name on the nodes of a test."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.search.engine import Row
from hwsearch.search.ray_worker import Worker

# What a fake job does is told by its shape's depth; any other depth answers after a moment.
CRASH_ONCE, CRASH, HANG, RAISE, SLOW = 101, 102, 103, 104, 105
MOMENT = 0.05


class FakeWorker(Worker):
    """Passes for the device that it is asked for. `l40s` stands for a node that says so wrongly."""

    def device(self) -> tuple[str | None, str]:
        return ("l4" if self._gpu == "l40s" else self._gpu), f"fake {self._gpu}"

    def run(self, job: Job) -> Row | Failure:
        notes = Path(job.workload.spec)
        begin = time.time()
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        match job.shape.num_hidden_layers:
            case depth if depth == CRASH or (depth == CRASH_ONCE and notes.read_text().count("\n") == 1):
                os._exit(1)
            case depth if depth == HANG:
                time.sleep(1000)
            case depth if depth == RAISE:
                raise ValueError("no such kernel")
            case depth if depth == SLOW:
                time.sleep(3)
        time.sleep(MOMENT)
        return {"key": job.key, "gpu": self._gpu, "worker": os.getpid(), "begin": begin, "end": time.time()}
