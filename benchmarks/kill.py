"""kill -9 of the coordinator, of a worker and of the database at random moments of a measured run.

    python benchmarks/kill.py [--kills 50] [--storages journal postgresql] [--coordinators 2] [--seed 0]

The devices are made up (benchmarks/kill_run.py), all processes are real: the coordinator, a worker for each
measurement, a PostgreSQL server. Whatever was killed is started again at once, but of several coordinators
every other victim stays away for longer than its lease. A run that ends too early is asked for more shapes,
and when all kills are done it may end. Then benchmarks/kill_check.py says what the study must hold. More than
one coordinator share the database only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from kill_check import Kill, Refusal, check, is_explained
from postgres_server import Postgres, postgres_server

from hwsearch.search.storage.study import open_storage

HERE = Path(__file__).parent
SPACE = """\
shape:
  num_hidden_layers: {min: 2, max: 9}
  hidden_size: {min: 128, max: 320, step: 64}
  head_size: [32, 64]
  intermediate_size: {min: 128, max: 1024, step: 64}
  global_attn_every_n_layers: [1, 3]
  local_attention: [64, 128]
  vocab_size: 4096
  max_position_embeddings: 512
budget: {min: 1M, max: 4M}
basket: {t4: 2.0, l4: 1.0}
workloads:
  - {lengths: "fixed:128x32"}
objectives:
  latency: {weight: 1.0}
  quality_prior: {weight: 1.0}
reference: L4-h192-a3-i512-v4096-p512
"""
SHAPES_AT_ONCE = 4  # so many more are asked for where a run has ended before its kill
LEASE_S = 5.0
AWAY_S = 1.5 * LEASE_S
LONGEST_S = 300.0


@dataclass
class Runs:
    """Coordinators that share a study, each with a folder of its own, and what was done to them."""

    folder: Path
    storage: str
    server: Postgres | None
    chance: random.Random
    count: int
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    deaths: list[Kill] = field(default_factory=list)
    back_at: dict[int, float] = field(default_factory=dict)
    begun: dict[int, datetime] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def start(self, place: int) -> subprocess.Popen[str]:
        self.begun[place] = datetime.now()
        space, out, log = (self.folder / name for name in ("small.yaml", f"run{place}", "device.log"))
        arguments = (space, out, self.storage, self.count, log, LEASE_S)
        with open(self.folder / f"output{place}.txt", "a") as output:
            return subprocess.Popen(
                [sys.executable, HERE / "kill_run.py", *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Every whole line of every measurements.jsonl, by folder."""
        return {
            path.parent.name: [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
            for path in self.folder.glob("run*/measurements.jsonl")
        }

    def row_count(self) -> int:
        return sum(map(len, self.rows().values()))

    def timings(self) -> list[tuple[str, str, str]]:
        lines = (self.folder / "device.log").read_text().splitlines()
        return [(folder, gpu, shape) for folder, gpu, shape in map(str.split, lines)]

    def go_on(self) -> bool:
        """Start again what has not ended well, when it is time; whether any runs or is to come back."""
        for place, process in enumerate(self.processes):
            if process.poll() not in (None, 0) and time.monotonic() >= self.back_at.get(place, 0.0):
                if process.returncode > 0:
                    refusal = Refusal(self.last_words(place), self.begun[place], datetime.now())
                    self.refusals.append(refusal)
                self.processes[place] = self.start(place)
        return any(process.poll() != 0 for process in self.processes)

    def end(self) -> None:
        begun = time.monotonic()
        while self.go_on():
            self.check_time(begun)
            time.sleep(0.05)

    def check_time(self, begun: float) -> None:
        if time.monotonic() - begun > LONGEST_S:
            raise TimeoutError("\n".join(self.last_words(place) for place in range(len(self.processes))))

    def last_words(self, place: int) -> str:
        return (self.folder / f"output{place}.txt").read_text().strip().rpartition("\n")[2]

    def wait_for_a_moment(self) -> None:
        """Until some more rows are there, or for a random while of the start; and a moment more."""
        rows, patience = self.chance.randrange(5), self.chance.uniform(0.2, 2.0)
        before, begun = self.row_count(), time.monotonic()
        starting = self.chance.random() < 0.2
        while not (starting and time.monotonic() - begun > patience) and self.row_count() < before + rows:
            self.check_time(begun)
            if not self.go_on():
                self.count += SHAPES_AT_ONCE
                self.processes = [self.start(place) for place in range(len(self.processes))]
            time.sleep(0.01)
        time.sleep(self.chance.uniform(0, 0.1))

    def kill(self, victim: str) -> None:
        """Nothing where there is no such process just now."""
        if victim == "database":
            assert self.server is not None
            begun = datetime.now()
            self.server.kill()
            time.sleep(self.chance.uniform(0, 1.0))
            self.server.start()
            self.deaths.append(Kill("database", begun, datetime.now()))
        elif victim == "worker":
            workers = [worker for process in self.processes for worker in _workers(process.pid)]
            if not workers:
                return
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.chance.choice(workers), signal.SIGKILL)
        else:
            alive = [place for place, process in enumerate(self.processes) if process.poll() is None]
            if not alive:
                return
            place, begun = self.chance.choice(alive), datetime.now()
            self.processes[place].kill()
            self.processes[place].wait()
            self.deaths.append(Kill(f"run{place}", begun, datetime.now()))
            if len(self.processes) > 1 and self.kills[victim] % 2 == 0:
                self.back_at[place] = time.monotonic() + AWAY_S
        self.kills[victim] += 1


def _workers(process: int) -> list[int]:
    """The children of a coordinator that measure."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # the thread, or the child, has just ended
            for child in path.read_text().split():
                if b"child_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def survive(storage: str, kills: int, coordinators: int, seed: int) -> dict[str, Any]:
    """Kill so often, let it end, and check the study. Raises AssertionError where anything is not so."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        (folder / "small.yaml").write_text(SPACE)
        server = held.enter_context(postgres_server()) if storage == "postgresql" else None
        count = SHAPES_AT_ONCE + 2 * coordinators
        url = server.url() if server else str(folder / "study.log")
        runs = Runs(folder, url, server, random.Random(seed), count)
        begun = time.monotonic()
        runs.processes = [runs.start(place) for place in range(coordinators if server else 1)]
        try:
            victims = ["coordinator", "worker", *(["database"] if server else [])]
            while (done := runs.kills.total()) < kills:
                runs.wait_for_a_moment()
                # In turn, so that a few kills reach all of them.
                runs.kill(victims[done % len(victims)])
            runs.end()
        finally:
            for process in runs.processes:
                process.kill()
                process.wait()
        study = optuna.load_study(study_name="small measured", storage=open_storage(url))
        rows = runs.rows()
        found = check(study.trials, rows, runs.timings(), runs.deaths, LEASE_S)
        failed = sum(row["source"] == "failed" for own in rows.values() for row in own)
        assert failed <= runs.kills["worker"], "failed without a kill"
        strange = [refusal.words for refusal in runs.refusals if not is_explained(refusal, runs.deaths)]
        assert not strange, strange
        return {**runs.kills, **found, "refusals": len(runs.refusals), "s": time.monotonic() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--coordinators", type=int, default=2)
    parser.add_argument(
        "--storages", nargs="+", choices=("journal", "postgresql"), default=["journal", "postgresql"]
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for storage in arguments.storages:
        found = survive(storage, arguments.kills, arguments.coordinators, arguments.seed)
        print(storage + ": " + ", ".join(f"{value:.0f} {name}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
