"""What a study costs as it grows: a trial begun and told, memory, and opening it again, by storage.

    python benchmarks/load.py [--trials 1000 10000 20000] [--storages journal sqlite postgresql]

Trials are those of a measured run: seven parameters, two values, the attributes of a measured shape. Each is
begun through `Leases` and told as the coordinator does it, and the trials so far are read once in between, as
a sampler does. At each size a new process opens the study, as on resuming a run, and works on TIMED trials.
The study is brought to the size before by copies of a trial's lines or rows, for Optuna itself would take
hours.
PostgreSQL is a local server of its own, on a socket, without fsync; its own memory is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages.journal._storage import JournalOperation
from optuna.study import Study
from postgres_server import postgres_server

from hwsearch.search.leases import Leases
from hwsearch.search.parameters import NAMES
from hwsearch.search.storage_url import is_journal, is_one_file
from hwsearch.search.study import claimed_storage, complete_trials, open_study, tell

STORAGES = ("journal", "sqlite", "postgresql")
TIMED = 50
VARYING: dict[str, BaseDistribution] = {name: IntDistribution(0, 1_000_000) for name in NAMES}
FACTS = {
    "measured_s": {"h200-sxm": 0.0123456, "l4": 0.123456},
    "measured_error": {"h200-sxm": 0.01, "l4": 0.01},
    "peak_bytes": {"h200-sxm": 1_234_567_890, "l4": 1_234_567_890},
    "device": {"h200-sxm": "NVIDIA H200", "l4": "NVIDIA L4"},
}


@contextmanager
def opened(url: str) -> Iterator[Study]:
    with claimed_storage(url, print) as storage:
        yield open_study(storage, "load", "load", {"a": "minimize", "b": "maximize"}, RandomSampler(seed=0))


def work(study: Study, leases: Leases, number: int) -> None:
    """One more trial, its shape told apart by `number`."""
    complete_trials(study)
    params = {name: number + place for place, name in enumerate(NAMES)}
    trial = leases.begin(params, VARYING, {"shape": "L28-h1024-a16-i2624", "shape_hash": f"{number:016x}"})
    assert trial is not None
    tell(study, trial, [0.001 * number, 1.0], {}, FACTS)


def grow(url: str, trials: int) -> None:
    """Bring the study to so many trials by copies of the first one."""
    with opened(url) as study:
        count = len(study.trials)
        if count == 0:
            work(study, Leases(study, "load", alone=is_one_file(url)), 0)
            count = 1
    if is_journal(url):
        copy_lines(Path(url), range(count, trials))
    else:
        copy_rows(url, range(count, trials))


def copy_lines(journal: Path, new: range) -> None:
    """Lines such as Optuna writes for a trial, for further ones."""
    first: list[dict[str, Any]] = []
    for line in journal.read_text().splitlines():
        record = json.loads(line)
        if record.get("trial_id") == 0 or (record["op_code"] == JournalOperation.CREATE_TRIAL and not first):
            first.append(record)
    with open(journal, "a") as file:
        for number in new:
            for record in first:
                own = {"trial_id": number} if "trial_id" in record else {}
                file.write(json.dumps({**record, **own}, separators=(",", ":")) + "\n")


def copy_rows(url: str, new: range) -> None:
    """Rows such as Optuna writes for a trial, for further ones."""
    from optuna.storages._rdb import models
    from sqlalchemy import create_engine, insert, select

    trial = models.TrialModel.__table__
    parts = (models.TrialParamModel, models.TrialValueModel, models.TrialUserAttributeModel)
    with create_engine(url).begin() as connection:
        first = dict(connection.execute(select(trial).where(trial.c.number == 0)).mappings().one())
        original = first.pop("trial_id")
        connection.execute(insert(trial), [{**first, "number": number} for number in new])
        copies = (
            connection.execute(select(trial.c.trial_id).where(trial.c.number >= new.start)).scalars().all()
        )
        for part in (model.__table__ for model in parts):
            rows = connection.execute(select(part).where(part.c.trial_id == original)).mappings().all()
            own = {column.name for column in part.primary_key}
            plain = [{name: cell for name, cell in row.items() if name not in own} for row in rows]
            connection.execute(insert(part), [{**row, "trial_id": copy} for copy in copies for row in plain])


def use(url: str) -> None:
    """Print a JSON object: seconds to open the study and read its trials, then milliseconds for each of TIMED
    more, and the MiB that it all took."""
    before = peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    with opened(url) as study:
        count = len(complete_trials(study))
        opening = {"open_s": time.perf_counter() - start, "open_cpu_s": time.process_time() - cpu}
        leases = Leases(study, "load", alone=is_one_file(url))
        leases.recover()
        times, cpu = [], time.process_time()
        for number in range(count, count + TIMED):
            start = time.perf_counter()
            work(study, leases, number)
            times.append(1e3 * (time.perf_counter() - start))
        low, *_, high = statistics.quantiles(times, n=5)
        cpu_ms = 1e3 * (time.process_time() - cpu) / TIMED
    found = {**opening, "trials": count + TIMED, "mib": peak_mib() - before, "cpu_ms": cpu_ms}
    print(json.dumps({**found, "p20": low, "p50": statistics.median(times), "p80": high}))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(step: str, url: str, trials: int) -> str:
    command = [sys.executable, __file__, "--step", step, "--url", url, "--trials", str(trials)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000, 20_000])
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    parser.add_argument("--step", choices=("grow", "use"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "grow":
        return grow(arguments.url, arguments.trials[0])
    if arguments.step == "use":
        return use(arguments.url)
    print(
        f"optuna {optuna.__version__}, Python {sys.version.split()[0]}, {TIMED} trials timed at each size\n"
    )
    print(
        "| storage | trials | ms a trial (20-80 %) | own CPU ms | MiB | s to open | file MiB |\n"
        + "|---" * 7
        + "|",
        flush=True,
    )
    for name in arguments.storages:
        with ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            file = folder / ("study.log" if name == "journal" else "study.db")
            url = {"journal": str(file), "sqlite": f"sqlite:///{file}"}.get(name)
            url = url or held.enter_context(postgres_server()).url()
            for trials in sorted(arguments.trials):
                child("grow", url, trials - TIMED)
                found: dict[str, Any] = json.loads(child("use", url, trials).splitlines()[-1])
                assert found["trials"] == trials
                size = f"{file.stat().st_size / 2**20:.1f}" if file.exists() else "server's"
                spread = f"{found['p50']:.1f} ({found['p20']:.1f}-{found['p80']:.1f})"
                row = [name, f"{trials:,}", spread, f"{found['cpu_ms']:.1f}"]
                row += [f"{found['mib']:.0f}", f"{found['open_s']:.2f} ({found['open_cpu_s']:.2f})", size]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
