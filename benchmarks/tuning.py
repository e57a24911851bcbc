"""The kernel tuner beside Kernel Tuner's own strategies and Optuna's TPE, replayed on recorded spaces.

    python benchmarks/tuning.py FOLDER [--subjects hwsearch,random,...] [--seeds 30] [--spaces gemm,...]

FOLDER holds Kernel Tuner caches as KERNEL/GPU.json.gz, at any depth: those of the FAIR Benchmark Hub for
Auto-Tuning (DOI 10.5281/zenodo.15364124). Rows are appended to results/tuning.jsonl as they come, those that
are there already are not run again, and results/tuning.md is written from all of them; without FOLDER, only
that. Kernel Tuner's strategies need `pip install kernel-tuner`, lfbo_trees scikit-learn.

Every search gets the recorded seconds that random search needs to come 95 % of the way (score.py), every
configuration costs what it cost when recorded, once: seeing one again is free, as in Kernel Tuner's own
simulation, and so is asking for one that is not in the cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from hwsearch.tuning.cache_file import read_recorded
from hwsearch.tuning.proposals import Optimizer, Settings
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.replay import replay
from hwsearch.tuning.score import Baseline, random_baseline

ROWS = Path("results/tuning.jsonl")
REPORT = Path("results/tuning.md")
KERNEL_TUNER = (
    "genetic_algorithm",
    "dual_annealing",
    "pso",
    "diff_evo",
    "hybrid_vndx",
    "adaptive_tabu_greywolf",
)
TPE_TRIALS = 1500  # it repeats itself for ever on a small space

# Every other choice that was tried for the optimizer, one at a time.
DESIGNS = {
    "chosen": Settings(),
    "initial 8": Settings(initial=8),
    "clip none": Settings(clip=None),
    "clip 0.4": Settings(clip=0.4),
    "no divisors": Settings(divisor_log_scale=None),
    "divisors 0": Settings(divisor_log_scale=0.0),
    "no neighbours": Settings(near=10**9),
    "neither": Settings(divisor_log_scale=None, near=10**9),
}


class Clock:
    """A recorded device with a budget: what was seen, when, and the best so far."""

    def __init__(self, recorded: RecordedSpace, budget_s: float) -> None:
        self._recorded = recorded
        self._budget_s = budget_s
        self._seen: set[int] = set()
        self.seconds: list[float] = []
        self.best: list[float | None] = []
        self.spent = False

    def measure(self, row: int) -> float | None:
        """The time at `row`, None where it failed; sets `spent` once the budget is."""
        time = float(self._recorded.times[row])
        if row not in self._seen:
            self._seen.add(row)
            now = (self.seconds[-1] if self.seconds else 0.0) + float(self._recorded.seconds[row])
            self.spent = now > self._budget_s or len(self._seen) == len(self._recorded)
            if now > self._budget_s:
                return None if np.isnan(time) else time
            self.seconds.append(now)
            known = [b for b in (self.best[-1] if self.best else None, time) if b is not None and b == b]
            self.best.append(min(known, default=None))
        return None if np.isnan(time) else time


Search = Callable[[RecordedSpace, Clock, int], None]


def hwsearch(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
    for evaluation in replay(recorded, clock._budget_s, seed):
        clock.seconds.append(evaluation.recorded_seconds)
        clock.best.append(evaluation.best)


def design(settings: Settings) -> Search:
    def search(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
        optimizer = Optimizer(recorded.space, seed, settings)
        while not clock.spent and (row := optimizer.propose()) is not None:
            optimizer.tell(row, clock.measure(row))

    return search


def random_search(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
    for row in np.random.default_rng(seed + 1_000_000).permutation(len(recorded)):
        if clock.spent:
            return
        clock.measure(int(row))


def optuna_tpe(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=True, seed=seed))
    for _ in range(TPE_TRIALS):
        trial = study.ask(dict(recorded.space.distributions))
        row = recorded.space.row_of(trial.params)
        time = None if row is None else clock.measure(row)
        if clock.spent:
            return
        if time is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, time)


def lfbo_trees(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
    """Likelihood-free Bayesian optimisation: which configurations does a classifier put among the best fifth?

    Extra-trees, fitted anew every five measurements, asked at every feasible configuration that is left;
    every second proposal differs from one of the five best in at most two parameters.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    generator, codes = np.random.default_rng(seed), recorded.space.codes
    rows: list[int] = []
    times: list[float] = []
    left = np.ones(len(recorded), dtype=bool)
    chance = generator.random(len(recorded))
    while not clock.spent and left.any():
        if len(rows) >= 15 and len(rows) % 5 == 0:
            found = np.nan_to_num(times, nan=np.inf)
            good = found <= np.quantile(found, 0.2)
            gain = np.where(good, np.maximum(found.max(where=good, initial=0) - found, 0), 0.0)
            weights = np.where(good, gain / max(gain[good].mean(), 1e-300) + 1e-3, 1.0)
            trees = ExtraTreesClassifier(100, min_samples_leaf=2, random_state=seed)
            chance = trees.fit(codes[rows], good, sample_weight=weights).predict_proba(codes)[:, -1]
            chance += 1e-3 * generator.random(len(recorded))
        candidates = left
        if len(rows) >= 15 and len(rows) % 2:
            best = np.argsort(np.nan_to_num(times, nan=np.inf))[:5]
            near = np.logical_or.reduce([(codes != codes[rows[b]]).sum(axis=1) <= 2 for b in best])
            candidates = left & near if (left & near).any() else left
        row = int(np.where(candidates, chance, -1.0).argmax())
        left[row] = False
        time = clock.measure(row)
        rows.append(row)
        times.append(np.nan if time is None else time)


def kernel_tuner(strategy: str) -> Search:
    """Its simulation mode, stopped by our clock, which counts the framework's time too."""

    def search(recorded: RecordedSpace, clock: Clock, seed: int) -> None:
        import random

        import kernel_tuner
        from constraint import FunctionConstraint
        from kernel_tuner.runners import simulation
        from kernel_tuner.util import StopCriterionReached

        class Runner(simulation.SimulationRunner):  # type: ignore[misc]
            def run(self, parameter_space: Any, tuning_options: Any) -> list[Any]:
                results: list[Any] = []
                for element in parameter_space:
                    if clock.spent:
                        raise StopCriterionReached("the budget is spent")
                    row = recorded.space.row_of(dict(zip(space.names, element, strict=True)))
                    if row is not None:
                        clock.measure(row)
                    results += original.run(self, [element], tuning_options)
                return results

        space, original = recorded.space, simulation.SimulationRunner
        random.seed(seed)
        np.random.seed(seed)

        def feasible(*values: Any) -> bool:
            return space.row_of(dict(zip(space.names, values, strict=True))) is not None

        simulation.SimulationRunner = Runner
        try:
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
                kernel_tuner.tune_kernel(
                    "recorded",
                    "",
                    1,
                    [],
                    {n: list(v) for n, v in zip(space.names, space.choices, strict=True)},
                    restrictions=[FunctionConstraint(feasible)],
                    strategy=strategy,
                    cache=str(_kernel_tuner_cache(recorded, Path(folder))),
                    simulation_mode=True,
                    quiet=True,
                )
        except StopCriterionReached:
            pass
        finally:
            simulation.SimulationRunner = original

    return search


def _kernel_tuner_cache(recorded: RecordedSpace, folder: Path) -> Path:
    space = recorded.space
    cache = {}
    for row in range(len(space)):
        settings = space.configuration(row)
        failed = recorded.failures.get(row)
        cost = {"compile_time": 1e3 * recorded.seconds[row], "verification_time": 0.0, "benchmark_time": 0.0}
        value = "RuntimeFailedConfig" if failed else float(recorded.times[row])
        cache[",".join(map(str, settings.values()))] = {**settings, "time": value, **cost}
    head = {"device_name": "recorded", "kernel_name": "recorded", "problem_size": 1, "objective": "time"}
    choices = dict(zip(space.names, map(list, space.choices), strict=True))
    path = folder / "cache.json"
    path.write_text(
        json.dumps({**head, "tune_params_keys": list(space.names), "tune_params": choices, "cache": cache})
    )
    return path


SEARCHES: dict[str, Search] = {
    "hwsearch": hwsearch,
    "random": random_search,
    "optuna_tpe": optuna_tpe,
    "lfbo_trees": lfbo_trees,
    **{name: kernel_tuner(name) for name in KERNEL_TUNER},
    **{f"design: {name}": design(settings) for name, settings in DESIGNS.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--subjects", default="hwsearch", help=f"any of {', '.join(SEARCHES)}")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--spaces", default="", help="parts of the names of those to run (default all)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.folder:
        for row in _run(arguments.folder, arguments.subjects.split(","), arguments.seeds, arguments.spaces):
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
    REPORT.write_text(report(_rows()))
    print(REPORT.read_text())


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def _run(folder: Path, subjects: list[str], seeds: int, spaces: str) -> Iterator[dict[str, Any]]:
    done = {(row["space"], row["subject"], row["seed"]) for row in _rows()}
    for path in sorted(folder.rglob("*.json.gz")):
        name = f"{path.parent.name}/{path.name.removesuffix('.json.gz')}"
        missing = [
            (subject, seed)
            for seed in range(seeds)
            for subject in subjects
            if (name, subject, seed) not in done
        ]
        if not missing or not any(part in name for part in spaces.split(",")):
            continue
        recorded = read_recorded(path)
        baseline = random_baseline(recorded)
        for subject, seed in missing:
            yield _row(name, subject, seed, recorded, baseline)


def _row(name: str, subject: str, seed: int, recorded: RecordedSpace, baseline: Baseline) -> dict[str, Any]:
    clock = Clock(recorded, baseline.budget_s)
    start = time.process_time()
    SEARCHES[subject](recorded, clock, seed)
    cpu_s = time.process_time() - start
    last = clock.best[-1] if clock.best else None
    return {
        "space": name,
        "subject": subject,
        "seed": seed,
        "score": round(baseline.score(clock.seconds, clock.best), 4),
        "best_over_optimum": None if last is None else round(last / baseline.optimum, 4),
        "evaluations": len(clock.seconds),
        "cpu_ms_per_evaluation": round(1e3 * cpu_s / max(1, len(clock.seconds)), 2),
        "budget_s": round(baseline.budget_s, 1),
    }


def kernel_of(space: str) -> str:
    """One kernel's spaces are left out together, whichever version of its tuning parameters they have."""
    return space.split("/")[0].removesuffix("_milo")


def report(rows: list[dict[str, Any]]) -> str:
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        scores[row["subject"]][row["space"]].append(row["score"])
    spaces = sorted({row["space"] for row in rows})
    subjects = [s for s in SEARCHES if s in scores]
    peers = [s for s in subjects if not s.startswith("design")]
    lines = ["# Kernel tuners on recorded spaces", "", _HEAD, "", *_table(scores, peers, spaces)]
    if designs := [s for s in subjects if s.startswith("design")]:
        lines += [
            "",
            "## Designs of the optimizer",
            "",
            *_table(scores, designs, spaces),
            "",
            *_left_out(scores, designs),
        ]
    lines += ["", "## What a proposal costs, and what is found", ""]
    lines += [
        "| subject | CPU ms an evaluation | evaluations | best / optimum, mean of runs |",
        "|---|---|---|---|",
    ]
    for subject in subjects:
        own = [row for row in rows if row["subject"] == subject]
        found = [row["best_over_optimum"] for row in own if row["best_over_optimum"]]
        cost = sum(row["cpu_ms_per_evaluation"] * row["evaluations"] for row in own)
        evaluations = sum(row["evaluations"] for row in own)
        lines.append(
            f"| {subject} | {cost / max(1, evaluations):.1f} | {evaluations / len(own):.0f}"
            f" | {statistics.mean(found):.4f} |"
        )
    return "\n".join(lines) + "\n"


_HEAD = """Written by benchmarks/tuning.py from tuning.jsonl. The score is that of hwsearch/tuning/score.py:
0 is random search, 1 knowing the optimum. Mean ± standard error over seeds, whose count stands behind;
the last line is the mean over the spaces that the subject has run on, with the error due to seeds."""


def _table(scores: dict[str, dict[str, list[float]]], subjects: list[str], spaces: list[str]) -> list[str]:
    lines = ["| space | " + " | ".join(subjects) + " |", "|---" * (len(subjects) + 1) + "|"]
    for space in spaces:
        lines.append(f"| {space} | " + " | ".join(_cell(scores[s].get(space)) for s in subjects) + " |")
    means = []
    for subject in subjects:
        own = scores[subject]
        mean = statistics.mean(statistics.mean(values) for values in own.values())
        error = sum(_error(values) ** 2 for values in own.values()) ** 0.5 / len(own)
        means.append(f"**{mean:.3f}** ± {error:.3f} ({len(own)})")
    return [*lines, "| **mean (spaces)** | " + " | ".join(means) + " |"]


def _cell(values: list[float] | None) -> str:
    return f"{statistics.mean(values):.3f} ± {_error(values):.3f} ({len(values)})" if values else ""


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def _left_out(scores: dict[str, dict[str, list[float]]], designs: list[str]) -> list[str]:
    """For each kernel, the design that is best on the others, and what it reaches on this one."""
    shared = set.intersection(*(set(scores[d]) for d in designs))
    lines = ["| kernel left out | best design on the others | its score on this kernel |", "|---|---|---|"]
    held_out = []
    for kernel in sorted({kernel_of(space) for space in shared}):
        inside = [space for space in shared if kernel_of(space) != kernel]
        outside = sorted(shared - set(inside))
        if not inside:
            continue
        best = max(designs, key=lambda d: statistics.mean(statistics.mean(scores[d][s]) for s in inside))
        reached = [statistics.mean(scores[best][space]) for space in outside]
        held_out += reached
        lines.append(f"| {kernel} | {best.removeprefix('design: ')} | {statistics.mean(reached):.3f} |")
    return (
        [
            *lines,
            "",
            f"Mean over the {len(held_out)} spaces, each with the design chosen without its kernel:"
            f" {statistics.mean(held_out):.3f}, lowest {min(held_out):.3f}.",
        ]
        if held_out
        else []
    )


if __name__ == "__main__":
    main()
