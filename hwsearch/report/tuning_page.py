"""The page that `hwsearch tune` leaves: a landscape of every row that it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwsearch.report.landscape import Evaluation, Landscape, write_landscapes
from hwsearch.tuning import t4_file
from hwsearch.tuning.tables import Placed

# A row, and all that was looked at to find it, the default first.
Search = tuple[Placed, Sequence[t4_file.Evaluation]]


def write_tuning_page(path: Path, searches: Sequence[Search]) -> None:
    write_landscapes(path, [_landscape(placed, looked_at) for placed, looked_at in searches])


def _landscape(placed: Placed, looked_at: Sequence[t4_file.Evaluation]) -> Landscape:
    row = placed.row
    evaluations = tuple(Evaluation(each.config, each.seconds, each.failure) for each in looked_at)
    versions = {"triton": row.triton, "torch": row.torch, "driver": row.driver, "date": row.date}
    return Landscape(
        placed.table.kernel,
        placed.table.gpu,
        str(row.key),
        row.source,
        f"{row.workload}, {row.heads} heads",
        evaluations,
        default=_default(placed, looked_at),
        winner=Evaluation(row.config, row.seconds),
        alternatives=tuple(Evaluation(config, seconds) for config, seconds in row.alternatives),
        versions={name: text for name, text in {**versions, "method": row.method}.items() if text},
    )


def _default(placed: Placed, looked_at: Sequence[t4_file.Evaluation]) -> Evaluation | None:
    if not looked_at:
        return None
    first, seconds = looked_at[0], placed.row.default_seconds
    return Evaluation(first.config, seconds, None if seconds else first.failure or "does not run")
