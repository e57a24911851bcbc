"""Which shapes of a front are handed on, and the one that answers "same size, same depth, faster?"."""

from __future__ import annotations

import numpy as np

from hwsearch.search.candidates import Candidates
from hwsearch.search.objectives import Objective, scores
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.shape.table import ShapeTable

# Parameters within 1 % count as equal.
EQUAL_SIZE = 0.01
# Sums over a whole grid and over one shape differ in their last bits; a shape is not faster than itself.
ROUNDING = 1e-9


def best_by_weight(front: Candidates, found: list[Objective], count: int) -> list[int]:
    """Rows of the front by the users' weights, one per depth and width: neighbours that differ by one
    step of the feed-forward size would say the same thing twice."""
    rows: list[int] = []
    taken: set[tuple[int, int]] = set()
    for row in np.argsort(scores(found), kind="stable").tolist():
        kind = (int(front.shapes.num_hidden_layers[row]), int(front.shapes.hidden_size[row]))
        if kind not in taken:
            taken.add(kind)
            rows.append(row)
        if len(rows) == count:
            break
    return rows


def like_for_like(candidates: Candidates, reference: Candidates) -> int | None:
    """Row of the fastest candidate that has the reference's parameters within 1 %, no fewer layers and
    global layers at least as often, and is faster on every GPU; None where there is none."""
    shapes, own = candidates.shapes, reference.shapes
    size = _size(own)[0]
    passes = np.abs(_size(shapes) - size) <= EQUAL_SIZE * size
    passes &= shapes.num_hidden_layers >= own.num_hidden_layers[0]
    passes &= shapes.global_attn_every_n_layers <= own.global_attn_every_n_layers[0]
    passes &= shapes.local_attention >= own.local_attention[0]
    passes &= (candidates.latency < reference.latency * (1 - ROUNDING)).all(axis=0)
    if not passes.any():
        return None
    return int(np.argmin(np.where(passes, candidates.basket_latency, np.inf)))


def fastest_no_worse(candidates: Candidates, found: list[Objective], reference: Candidates) -> int | None:
    """Row of the candidate that dominates the reference shape and is fastest over the basket: no objective
    worse, the basket faster. None where the reference lies on the front.

    `found` are the objectives over the candidates.
    """
    passes = candidates.basket_latency < reference.basket_latency * (1 - ROUNDING)
    for objective in found:
        sign = 1.0 if objective.direction == "minimize" else -1.0
        passes &= objective.losses <= sign * objective.reference + ROUNDING * abs(objective.reference)
    if not passes.any():
        return None
    return int(np.argmin(np.where(passes, candidates.basket_latency, np.inf)))


def _size(shapes: ShapeTable) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(masked_lm_parameters(shapes))
