"""What share of the exact front's hypervolume each sampler reaches after how many trials.

All explore the same space with the same predicted objectives, and every Optuna sampler is helped in
the same way as in a run: only valid shapes, none twice. `front` knows the cost model and proposes the
exact front, what covers most of it first; it says how few trials the answer needs, not how it learns.

    python benchmarks/samplers.py [--space large] [--seeds 10] [--trials 200] [--gp-trials 100]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from hwsearch.search.candidates import Floats, price
from hwsearch.search.objectives import Objective, objectives
from hwsearch.search.parameters import Key, candidate_values, distributions, key_of, keys
from hwsearch.search.pareto import Coverage, front_rows, most_covering_first
from hwsearch.search.samplers import FrontSampler, ValidSampler
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import SearchSpace, load_space, valid_shapes

CHECKPOINTS = (10, 25, 50, 100, 200, 400, 800)
INNER: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "gp": lambda seed: GPSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: RandomSampler(seed=seed),
}


class Problem:
    """A priced space: objective values by shape, and the front to be covered."""

    def __init__(self, space: SearchSpace) -> None:
        shapes, _ = valid_shapes(space)
        reference = price(space, ShapeTable.of([space.reference]))
        found = objectives(space, price(space, shapes), reference)
        self.space = space
        self.directions = [objective.direction for objective in found]
        self.values = _columns(found, lambda o: o.values)
        self.losses = _columns(found, lambda o: o.losses)
        self.rows: dict[Key, int] = {key: row for row, key in enumerate(keys(shapes))}
        self.front = front_rows(self.losses)
        self.coverage = Coverage.of(self.losses[self.front])

    def front_order(self, count: int) -> list[Key]:
        names = list(self.rows)
        order = most_covering_first(self.losses[self.front], count)
        return [names[self.front[row]] for row in order]


def _columns(found: list[Objective], column: Callable[[Objective], Floats]) -> Floats:
    return np.stack([column(objective) for objective in found], axis=1)


def shares(problem: Problem, sampler: BaseSampler, trials: int) -> Iterator[tuple[int, float]]:
    """(trials, share of the hypervolume) at every checkpoint up to `trials`."""
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    values = candidate_values(problem.space.file.shape)
    seen: list[int] = []
    for number in range(1, trials + 1):
        trial = study.ask(distributions(values))
        key = key_of(trial.params, values)
        assert key is not None
        row = problem.rows[key]
        seen.append(row)
        study.tell(trial, problem.values[row].tolist())
        if number in CHECKPOINTS:
            yield number, problem.coverage.share(problem.losses[seen])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", default="large")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--gp-trials", type=int, default=100, help="GP costs seconds a trial")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")

    problem = Problem(load_space(arguments.space))
    checkpoints = [n for n in CHECKPOINTS if n <= arguments.trials]
    print(
        f"{arguments.space}: {len(problem.rows):,} valid shapes, {len(problem.front)} on the front,"
        f" {len(problem.directions)} objectives, {arguments.seeds} seeds; share of the hypervolume, mean±sd"
    )
    print(f"{'sampler':<8}" + "".join(f"{n:>14}" for n in checkpoints) + f"{'ms a trial':>12}")
    order = problem.front_order(arguments.trials)
    front = FrontSampler(order, candidate_values(problem.space.file.shape))
    start = time.perf_counter()
    found = dict(shares(problem, front, len(order)))
    _print("front", [[found[n]] for n in checkpoints if n in found], time.perf_counter() - start, len(order))
    for name, inner in INNER.items():
        trials = min(arguments.trials, arguments.gp_trials) if name == "gp" else arguments.trials
        start = time.perf_counter()
        runs = [
            list(shares(problem, ValidSampler(inner(seed), problem.space, seed), trials))
            for seed in range(arguments.seeds)
        ]
        elapsed = time.perf_counter() - start
        _print(
            name,
            [[share for _, share in column] for column in zip(*runs, strict=True)],
            elapsed,
            trials * len(runs),
        )


def _print(name: str, columns: list[list[float]], seconds: float, trials: int) -> None:
    cells = []
    for column in columns:
        spread = f"±{statistics.stdev(column):.3f}" if len(column) > 1 else ""
        cells.append(f"{statistics.mean(column):.3f}{spread}")
    print(
        f"{name:<8}" + "".join(f"{cell:>14}" for cell in cells) + f"{1e3 * seconds / trials:>12.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
