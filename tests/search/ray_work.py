"""Workers that measure nothing: they sleep and say who they were. Imported by name on the nodes of a test."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fake_engine import row_of

from hwsearch.measure.failure import CRASH, NOT_READY, Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search.measured.ray_worker import Worker

# What a fake job does is told by its shape's depth; any other depth answers after a moment.
DIE_ONCE, DIE, HANG_ONCE, RAISE, FAIL, SLOW, UNREADY = 101, 102, 103, 104, 105, 106, 107
MOMENT_S, SLOW_S, HANG_S = 0.05, 5.0, 1000.0
UNREADY_TIMES = 3  # so many workers a job may not take with it


class FakeWorker(Worker):
    """Passes for the device that it is asked for; one that is said to be an l40s turns out to be an l4."""

    def device(self) -> tuple[str | None, str]:
        return ("l4" if self._gpu == "l40s" else self._gpu), f"fake {self._gpu}"

    def run(self, job: Job) -> Row | Failure:
        """Leaves a line in the file that the workload is named after."""
        begin, notes = time.time(), Path(job.workload.spec)
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        depth, first = job.shape.num_hidden_layers, notes.read_text().count("\n") == 1
        if depth == DIE or (depth == DIE_ONCE and first):
            os._exit(1)
        if depth == HANG_ONCE and first:
            time.sleep(HANG_S)
        if depth == RAISE:
            raise ValueError("no such kernel")
        if depth == UNREADY and notes.read_text().count("\n") <= UNREADY_TIMES:
            return Failure(NOT_READY, "as it started: no module")
        if depth == FAIL:
            return Failure(CRASH, "the process was killed by SIGSEGV")
        time.sleep(SLOW_S if depth == SLOW else MOMENT_S)
        worker = {"worker": os.getpid(), "begin": begin, "end": time.time()}
        return {"key": job.key, "gpu": self._gpu, "device": f"fake {self._gpu}", **worker}


class TableWorker(FakeWorker):
    """Answers as tests/search/fake_engine.py does, after a moment."""

    def run(self, job: Job) -> Row | Failure:
        time.sleep(MOMENT_S)
        return row_of(job, self._gpu)
