"""How much of the true front is found after how many measurements, against Optuna's samplers.

    python benchmarks/ladder.py --data DIR [--problems NAME,...] [--methods NAME,...] [--seeds 20]
        [--measurements 100] [--cache results/ladder.jsonl] > results/ladder.md

Devices are recorded tables (`ladder_problems.py`) whose answers come with 5 % noise; on the CPU a measurement
is one of its own rounds. Figures are shares of the true front's hypervolume, true times and all, with the
reference point a tenth beyond the front's extremes, mean and standard deviation over seeds.

What ran stands in the cache and does not run again, the ladder's as long as its code is as it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import optuna
from ladder_methods import METHODS, Score
from ladder_problems import Problem, cpu_problem, hwgpt_problem, synthetic_problem, timm_problem

import hwsearch.regression.covariance
import hwsearch.search.hypervolume
import hwsearch.search.ladder
import hwsearch.search.residual

REPORTED = [
    *(f"hwgpt-{space}-{device}" for device in ("h100", "rtx2080") for space in "sl"),
    "synthetic-t4",
    "cpu",
    "timm-RTX3090",
    "timm-RTXPRO6000-MaxQ",
]
# Everything in the ladder that was chosen by trying was tried on these.
TUNED_ON = ["hwgpt-m-a100", "hwgpt-m-v100"]
OURS = ("ladder",)
WORTH = 30
LEARNING = (
    hwsearch.regression.covariance,
    hwsearch.search.hypervolume,
    hwsearch.search.ladder,
    hwsearch.search.residual,
)


def problem_of(name: str, data: Path) -> Problem:
    kind, *rest = name.split("-", 2)
    if kind == "hwgpt":
        return hwgpt_problem(data, *rest)
    if kind == "timm":
        return timm_problem(data, "-".join(rest))
    return {"cpu": cpu_problem, "synthetic": synthetic_problem}[kind]()


def version_of(method: str) -> str:
    """Of what a cached run came from: ours changes with its code, Optuna's with its release."""
    if method in OURS:
        sources = [Path(str(module.__file__)).read_bytes() for module in LEARNING]
        return hashlib.sha256(b"".join(sources)).hexdigest()[:12]
    return optuna.__version__


class Cache:
    """Runs that are done, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.runs = [json.loads(line) for line in lines]

    def scores(self, problem: str, method: str, seed: int) -> list[Score]:
        """Of the longest run that is there."""
        asked = {"problem": problem, "method": method, "seed": seed, "version": version_of(method)}
        found = [run for run in self.runs if asked.items() <= run.items()]
        longest = max(found, key=lambda run: run["measurements"], default={"scores": []})
        return [Score(**score) for score in longest["scores"]]

    def measured(self, problem: str, method: str, seed: int) -> int:
        asked = {"problem": problem, "method": method, "seed": seed, "version": version_of(method)}
        return max((run["measurements"] for run in self.runs if asked.items() <= run.items()), default=0)

    def add(self, **run: object) -> None:
        self.runs.append(json.loads(json.dumps(run)))
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def run_all(cache: Cache, names: list[str], methods: list[str], seeds: int, count: int, data: Path) -> None:
    for name in names:
        missing = [
            (method, seed)
            for method in methods
            for seed in range(seeds)
            if cache.measured(name, method, seed) < count
        ]
        if not missing:
            continue
        problem = problem_of(name, data)
        most = min(count, len(problem.true_s))
        for method, seed in missing:
            start = time.perf_counter()
            scores = [asdict(score) for score in METHODS[method](problem, seed, most)]
            seconds = time.perf_counter() - start
            cache.add(
                problem=name,
                method=method,
                seed=seed,
                measurements=count,
                version=version_of(method),
                seconds=round(seconds, 3),
                scores=scores,
            )
            print(f"{name} {method} seed {seed}: {seconds:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--problems", default=",".join(REPORTED))
    parser.add_argument("--methods", default="ladder,prediction alone,tpe,nsga2,random")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--measurements", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=Path("results/ladder.jsonl"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    cache = Cache(arguments.cache)
    names, methods = arguments.problems.split(","), arguments.methods.split(",")
    run_all(cache, names, methods, arguments.seeds, arguments.measurements, arguments.data)


if __name__ == "__main__":
    main()
