"""What of a recorded table's times follows from the shapes, and what does not.

What the fit to the whole table (`hwgpt.fitted_logs`) leaves of ln(time) is held against the shapes once more
and against the order of the file, in which shapes come at random.
"""

from __future__ import annotations

import numpy as np
from ladder_problems import NOISE, Floats, Problem

from hwsearch.regression.covariance import Features
from hwsearch.search.measured.residual import MOST_LEARNED, Measured, Residuals
from hwsearch.search.pareto import front_rows

NEIGHBOURS = 10  # rows before, and as many after, in the file
STRETCH = 250

HEAD = f"""
## How far the tables themselves scatter

Deviation of ln(measured / predicted) before anything is learned; of what a model of the layers, fitted to
the whole table, leaves of ln(time), and the mean of that on the true front. Then the share of what is left
that the shape explains (the ladder's own regression, given {MOST_LEARNED} rows of it without noise and asked
of the others), and that the order of the file explains (a row's {2 * NEIGHBOURS} neighbours), in which shapes
come at random.

| device | prediction | left by the fit | on the front | by shape | by order |
|---|---|---|---|---|---|"""


def print_scatter(problems: list[Problem]) -> None:
    """Markdown."""
    print(HEAD)
    for problem in problems:
        left = left_by_fit(problem)
        deviations = np.log(problem.true_s / problem.predicted_s).std(), left.std()
        cells = [f"{deviation:.3f}" for deviation in deviations]
        cells += [f"{left[front_rows(problem.losses)].mean():+.3f}"]
        shares = explained_by_shape(left, problem.features), explained_by_order(left)
        cells += [f"{max(share, 0):.2f}" for share in shares]
        print(f"| {problem.name} | " + " | ".join(cells) + " |")
    for problem in problems:
        if left_by_fit(problem).std() > NOISE:
            print_order(problem)


def print_order(problem: Problem) -> None:
    """Where in the file the rows are fast."""
    stretches = np.arange(len(problem.true_s)) // STRETCH
    left = np.bincount(stretches, left_by_fit(problem)) / np.bincount(stretches)
    fast = (left < 0)[stretches]
    front = fast[front_rows(problem.losses)]
    print(f"\n{problem.name}: mean of what is left by {STRETCH} rows of the file, in percent:\n")
    print(" ".join(f"{100 * mean:+.0f}" for mean in left))
    print(f"\nThose below 0 hold {fast.mean():.0%} of the rows and {front.mean():.0%} of the true front.")


def left_by_fit(problem: Problem) -> Floats:
    """ln(time) over the fit's, [N]."""
    assert problem.fitted_s is not None
    return np.asarray(np.log(problem.true_s / problem.fitted_s))


def explained_by_shape(left: Floats, features: Features) -> float:
    """Share of the variance of all other rows, given some of them without noise."""
    order = np.random.default_rng(0).permutation(len(left))
    known, others = order[:MOST_LEARNED], order[MOST_LEARNED:]
    seconds = np.exp(left[known])[None]
    measured = Measured(known, seconds, np.zeros_like(seconds))
    learned = Residuals.of(np.ones((1, len(left))), features, measured)
    return explained(left[others], learned.mean(others)[0])


def explained_by_order(left: Floats) -> float:
    offsets = [step for step in range(-NEIGHBOURS, NEIGHBOURS + 1) if step]
    inner = np.arange(NEIGHBOURS, len(left) - NEIGHBOURS)
    return explained(left[inner], np.mean([left[inner + step] for step in offsets], axis=0))


def explained(truth: Floats, guess: Floats) -> float:
    """R squared."""
    return float(1 - np.mean((truth - guess) ** 2) / truth.var())
