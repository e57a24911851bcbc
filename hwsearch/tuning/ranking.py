"""How well one order of configurations, by a model, foretells another, by measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwsearch.kernels.tuned import Key, Row, Table

# The best of what was measured has been found when one this close has.
CLOSE = 1.02


@dataclass(frozen=True)
class Ranking:
    """
    Attributes:
        configurations: that both the model and the measurement know.
        top_loss_percent: how much slower the model's first is than the fastest.
        needed: how many of the model's first have to be measured until one within 2 % of the fastest is
            among them.
        agreement: Spearman's rank correlation; 1 is the same order, nan for fewer than two.
    """

    configurations: int
    top_loss_percent: float
    needed: int
    agreement: float


def ranking(modelled: ArrayLike, measured: ArrayLike) -> Ranking:
    """Of seconds [N] by the model and by measurement, N at least 1; equal ones in the order given."""
    by_model, true = np.asarray(modelled, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if by_model.shape != true.shape or by_model.ndim != 1 or not by_model.size:
        raise ValueError(f"seconds of shapes {by_model.shape} and {true.shape}; accepted: two of [N], N > 0")
    in_order = true[np.argsort(by_model, kind="stable")]
    fastest = true.min()
    close = np.minimum.accumulate(in_order) <= CLOSE * fastest
    return Ranking(
        by_model.size,
        100 * float(in_order[0] / fastest - 1),
        int(np.argmax(close)) + 1,
        _spearman(by_model, true),
    )


def compared(table: Table) -> dict[Key, Ranking]:
    """For each key of a table with a measured and a modelled row, the ranking of what both list: the
    configuration of each and its alternatives. Keys that share none are left out."""
    rows: dict[tuple[Key, str], Row] = {(row.key, row.source): row for row in table.rows}
    found = {}
    for key, source in rows:
        if source != "measured" or (key, "modelled") not in rows:
            continue
        measured, modelled = (_seconds(rows[key, each]) for each in ("measured", "modelled"))
        shared = [config for config in modelled if config in measured]
        if shared:
            found[key] = ranking([modelled[c] for c in shared], [measured[c] for c in shared])
    return found


def _seconds(row: Row) -> dict[tuple[tuple[str, object], ...], float]:
    """Seconds by configuration; a row does not say which of its configurations is the untuned default."""
    listed: Iterable[tuple[Mapping[str, object], float]] = ((row.config, row.seconds), *row.alternatives)
    return {tuple(sorted(config.items())): seconds for config, seconds in listed}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 2:
        return float("nan")
    ranks = [_ranks(each) for each in (a, b)]
    if min(np.ptp(each) for each in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of equal values are their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
