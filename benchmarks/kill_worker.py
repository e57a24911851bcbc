"""The worker that benchmarks/kill.py kills; it imports little, so that it starts at once."""

from __future__ import annotations

import hashlib
import os
import random
import time

from hwsearch.measure.job import Job
from hwsearch.measure.row import Row, measured_row

LONGEST_S = 0.05


def work(job: Job, gpu: str, owner: str, log: str) -> Row:
    """A while, then a line in `log` that it is done and for whom, then a row."""
    time.sleep(LONGEST_S * random.random())
    shape = job.shape.hash()
    line = f"{owner} {gpu} {shape}\n".encode()
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)
    own = int(hashlib.sha256(f"{gpu} {shape}".encode()).hexdigest()[:4], 16) / 0xFFFF
    # No two timings agree, so that it can be told which of them the study holds.
    seconds = 0.01 * (1 + own) * (1 + 0.001 * random.random())
    found = {
        **{"gpu": gpu, "device": "made up", "uuid": None, "n": 5, "error": 0.004, "taint": None},
        **{"p50_s": seconds, "p20_s": seconds, "p80_s": seconds, "peak_bytes": 1 << 28},
        "versions": {"torch": "0", "triton": "0", "driver": "0"},
    }
    return measured_row(job, found, None)
