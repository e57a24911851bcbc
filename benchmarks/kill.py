"""kill -9 of the coordinator, of a worker and of the database at random moments of a measured run.

    python benchmarks/kill.py [--kills 50] [--storages journal postgresql] [--coordinators 2] [--seed 0]

The devices are made up (benchmarks/kill_run.py), all processes are real: the coordinator, a worker for each
measurement, a PostgreSQL server. Whatever was killed is started again at once, a run that ends too early is
asked for more shapes, and when all kills are done it may end. Then every finished measurement (a row of
measurements.jsonl) must be in the study once, and no trial may be left running. More than one coordinator
share the database only.
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
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from postgres_server import Postgres, postgres_server

from hwsearch.search.leases import FAILURE, LOST_BY, SHAPE_HASH
from hwsearch.search.study import open_storage

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
    refusals: list[str] = field(default_factory=list)

    def start(self, place: int) -> subprocess.Popen[str]:
        out = self.folder / f"run{place}"
        storage = self.storage if self.server else str(self.folder / "study.log")
        arguments = (self.folder / "small.yaml", out, storage, self.count, self.folder / "device.log")
        with open(self.folder / f"output{place}.txt", "a") as output:
            return subprocess.Popen(
                [sys.executable, HERE / "kill_run.py", *map(str, arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def rows(self) -> list[dict[str, Any]]:
        """Every whole line of every measurements.jsonl."""
        found = []
        for path in self.folder.glob("run*/measurements.jsonl"):
            lines = path.read_bytes().split(b"\n")
            found += [json.loads(line) for line in lines[:-1]]
        return found

    def go_on(self) -> bool:
        """Start what has ended again, unless all have ended well; whether any runs."""
        for place, process in enumerate(self.processes):
            if process.poll() not in (None, 0):
                self.refusals += [] if process.returncode < 0 else [self.last_words(place)]
                self.processes[place] = self.start(place)
        return any(process.poll() is None for process in self.processes)

    def last_words(self, place: int) -> str:
        return (self.folder / f"output{place}.txt").read_text().strip().rpartition("\n")[2]

    def wait_for_a_moment(self) -> None:
        """Until some more rows are there, or for a random while of the start; and a moment more."""
        rows, patience = self.chance.randrange(8), self.chance.uniform(0.2, 2.0)
        before, begun = len(self.rows()), time.monotonic()
        starting = self.chance.random() < 0.2
        while not (starting and time.monotonic() - begun > patience) and len(self.rows()) < before + rows:
            if time.monotonic() - begun > LONGEST_S:
                raise TimeoutError("\n".join(self.last_words(place) for place in range(len(self.processes))))
            if not self.go_on():
                self.count += SHAPES_AT_ONCE
                self.processes = [self.start(place) for place in range(len(self.processes))]
            time.sleep(0.01)
        time.sleep(self.chance.uniform(0, 0.1))

    def kill(self, victim: str) -> None:
        process = self.chance.choice(self.processes)
        if victim == "database":
            assert self.server is not None
            self.server.kill()
            time.sleep(self.chance.uniform(0, 1.0))
            self.server.start()
        elif victim == "worker":
            workers = _children(process.pid)
            if not workers:
                return
            _kill(self.chance.choice(workers))
        elif process.poll() is None:
            process.kill()
            process.wait()
        else:
            return
        self.kills[victim] += 1


def _children(process: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(each) for each in path.read_text().split()]
        except OSError:  # the thread has just ended
            continue
    return found


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(process, signal.SIGKILL)


def survive(storage: str, kills: int, coordinators: int, seed: int) -> dict[str, Any]:
    """Kill so often, let it end, and check the study. Raises AssertionError where anything is not so."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        (folder / "small.yaml").write_text(SPACE)
        server = held.enter_context(postgres_server()) if storage == "postgresql" else None
        count = SHAPES_AT_ONCE + 2 * coordinators
        runs = Runs(folder, server.url() if server else "", server, random.Random(seed), count)
        begun = time.monotonic()
        runs.processes = [runs.start(place) for place in range(coordinators if server else 1)]
        try:
            victims = ["coordinator", "worker", *(["database"] if server else [])]
            while (done := runs.kills.total()) < kills:
                runs.wait_for_a_moment()
                # In turn, so that a few kills reach all of them.
                runs.kill(victims[done % len(victims)])
            while runs.go_on():
                time.sleep(0.05)
        finally:
            for process in runs.processes:
                process.kill()
                process.wait()
        url = runs.storage or str(folder / "study.log")
        study = optuna.load_study(study_name="small measured", storage=open_storage(url))
        found = check(study.trials, runs.rows(), (folder / "device.log").read_text().splitlines())
        assert runs.kills["worker"] >= found["failed shapes"]
        # A reference whose worker was killed ends its run; the next one measures it again.
        strange = [line for line in runs.refusals if "SIGKILL" not in line]
        assert not strange, strange
        return {**runs.kills, **found, "refusals": len(runs.refusals), "s": time.monotonic() - begun}


def check(trials: list[FrozenTrial], rows: list[dict[str, Any]], device_log: list[str]) -> dict[str, Any]:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert not [trial.number for trial in trials if trial.state == TrialState.RUNNING], "left running"
    shapes = Counter(trial.user_attrs[SHAPE_HASH] for trial in complete)
    assert set(shapes.values()) == {1}, "a shape is there twice"
    measured = [row for row in rows if row["source"] == "measured"]
    keys = Counter((row["gpu"], row["shape_hash"]) for row in measured)
    # Where a coordinator was away for longer than a lease, another has measured its shape.
    lost = {trial.user_attrs[SHAPE_HASH] for trial in trials if LOST_BY in trial.user_attrs}
    assert {shape for (_, shape), times in keys.items() if times > 1} <= lost, "measured twice"
    seconds: dict[str, dict[str, float]] = {}
    for row in measured:
        seconds.setdefault(row["shape_hash"], {})[row["gpu"]] = row["p50_s"]
    whole = {shape: found for shape, found in seconds.items() if len(found) == 2}
    failed = {trial.user_attrs[SHAPE_HASH] for trial in trials if FAILURE in trial.user_attrs}
    assert set(whole) <= {*shapes, *failed}, "a finished measurement is not in the study"
    assert set(shapes) <= set(whole), "the study holds what was not measured"
    for trial in complete:
        told, found = trial.user_attrs["measured_s"], whole[trial.user_attrs[SHAPE_HASH]]
        assert told.keys() == found.keys() and all(abs(told[g] / found[g] - 1) < 1e-9 for g in found), (
            "values"
        )
    again = len(device_log) - len(set(device_log))
    return {
        **{"shapes": len(complete), "measurements": len(measured), "failed shapes": len(failed)},
        "begun again": len(trials) - len(complete) - len(failed),
        "timed again": again,
    }


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
