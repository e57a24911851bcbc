"""Who enters a contest of trained shapes, what their losses are worth against latency, and how sure that is.

The exchange rate: a predicted run trades latency against the quality prior by the user's weights. The
trained loss takes the prior's place, turned into parameters by the power law that the prior stands on
(Kaplan et al. 2020, arXiv 2001.08361: loss ~ N^-0.076), so with weights 1 and 1 one percent of loss is worth
13 % of latency. That exponent is of converged language models; short runs of masked ones have their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwsearch.search.pareto import front_rows
from hwsearch.search.result import RunResult
from hwsearch.search.winners import best_by_weight
from hwsearch.shape import EncoderShape
from hwsearch.shape.quality_prior import PARAMETER_EXPONENT

# What the trained loss replaces.
QUALITY_PRIORS = ("quality_prior_M", "body_parameters_M")
# Of what the words' frequencies alone give. With the reference at 0.60 of it and below, shapes of seven sizes
# were ranked as by whole runs (tau 0.9 and more), above that by 0.5 at most; shapes of one size, whose whole
# runs differ by little more than two seeds do, by 0.6 and more only below 0.5 (results/short_runs.md).
CLEARLY_BELOW = 0.6


@dataclass(frozen=True)
class Entrant:
    """A shape to be trained.

    Attributes:
        cost: weighted logarithms of the objectives against the reference, without the quality priors;
            the reference has 0.
        basket_latency_s: predicted, of a batch.
    """

    shape: EncoderShape
    cost: float
    basket_latency_s: float
    is_reference: bool = False


def entrants(result: RunResult, count: int) -> list[Entrant]:
    """The reference, then `count` shapes of the predicted front in the order of the users' weights, one per
    depth and width."""
    reference = result.space.reference
    found = [Entrant(reference, 0.0, float(result.reference.basket_latency[0]), is_reference=True)]
    front, costs = result.front, _costs(result)
    for row in best_by_weight(front, result.objectives, count + 1):
        if (shape := front.shapes.shape(row)) != reference:
            found.append(Entrant(shape, float(costs[row]), float(front.basket_latency[row])))
    return found[: count + 1]


def loss_weight(result: RunResult) -> float:
    """The weight of the quality priors together; 1 where the space has none."""
    return sum(o.weight for o in result.objectives if o.name in QUALITY_PRIORS) or 1.0


def score(entrant: Entrant, loss: float, reference_loss: float, weight: float) -> float:
    """Smaller is better, the reference has 0; both losses after the same steps on the same data."""
    return entrant.cost + weight / PARAMETER_EXPONENT * math.log(loss / reference_loss)


def past_plateau(reference_loss: float, unigram_loss: float) -> bool:
    """Whether the reference has learned clearly more than how often each word comes."""
    return reference_loss < CLEARLY_BELOW * unigram_loss


def spread(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Standard deviation of one run by pairs of runs that differ in their seed; None without a pair."""
    if not pairs:
        return None
    return math.sqrt(sum((first - second) ** 2 for first, second in pairs) / (2 * len(pairs)))


def on_front(latencies_s: Sequence[float], losses: Sequence[float]) -> list[bool]:
    """Which of the trained shapes no other one beats in both."""
    rows = set(front_rows(np.array([latencies_s, losses]).T).tolist()) if losses else set()
    return [row in rows for row in range(len(losses))]


def _costs(result: RunResult) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    total = np.zeros(len(result.front))
    for objective in result.objectives:
        if objective.name not in QUALITY_PRIORS:
            sign = 1.0 if objective.direction == "minimize" else -1.0
            total += sign * objective.weight * np.log(objective.values / objective.reference)
    return total
