"""How well one order of configurations, by a model, foretells another, by measurement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwsearch.kernels.triton_attention.space import trimmed
from hwsearch.kernels.tuned import Config, Key, Row, Table

# The best of what was measured has been found when one this close has.
CLOSE = 1.02


@dataclass(frozen=True)
class Ranking:
    """
    Attributes:
        configurations: that both the model and the measurement know.
        top_loss_percent: how much slower the model's first is than the fastest.
        needed: how many of the model's first have to be measured until one within 2 % of the fastest is
            among them; None where none of them is.
        agreement: Spearman's rank correlation; 1 is the same order, nan for fewer than two.
    """

    configurations: int
    top_loss_percent: float
    needed: int | None
    agreement: float


def ranking(modelled: ArrayLike, measured: ArrayLike, fastest: float | None = None) -> Ranking:
    """Of seconds [N] by the model and by measurement, N at least 1; equal ones in the order given.

    `fastest` is the best of all that was measured, None where the model knows all of it.
    """
    by_model, true = np.asarray(modelled, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if by_model.shape != true.shape or by_model.ndim != 1 or not by_model.size:
        raise ValueError(f"seconds of shapes {by_model.shape} and {true.shape}; accepted: two of [N], N > 0")
    in_order = true[np.argsort(by_model, kind="stable")]
    best = float(true.min()) if fastest is None else fastest
    close = in_order <= CLOSE * best
    return Ranking(
        by_model.size,
        100 * float(in_order[0] / best - 1),
        int(np.argmax(close)) + 1 if close.any() else None,
        _spearman(by_model, true),
    )


def of_model(modelled: Row, measured: Iterable[tuple[Config, float]]) -> Ranking | None:
    """How a modelled row, its configuration and alternatives, stands among all that was measured for its key;
    None where nothing of it was measured."""
    seconds = _by_config(measured)
    listed = _by_config(((modelled.config, modelled.seconds), *modelled.alternatives))
    shared = [config for config in listed if config in seconds]
    if not shared:
        return None
    return ranking([listed[c] for c in shared], [seconds[c] for c in shared], min(seconds.values()))


def compared(table: Table) -> dict[Key, Ranking]:
    """For each key of a table with a measured and a modelled row, `of_model` with what the table keeps."""
    rows: dict[tuple[Key, str], Row] = {(row.key, row.source): row for row in table.rows}
    found = {}
    for (key, source), row in rows.items():
        if source == "measured" and (modelled := rows.get((key, "modelled"))) is not None:
            ranked = of_model(modelled, ((row.config, row.seconds), *row.alternatives))
            if ranked is not None:
                found[key] = ranked
    return found


def _by_config(listed: Iterable[tuple[Config, float]]) -> dict[tuple[tuple[str, object], ...], float]:
    return {tuple(sorted(trimmed(config).items())): seconds for config, seconds in listed}


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
