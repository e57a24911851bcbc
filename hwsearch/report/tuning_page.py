"""The page that `hwsearch tune` leaves: a landscape of every row that it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwsearch.report.landscape import Evaluation, Landscape, write_landscapes
from hwsearch.tuning import t4_file
from hwsearch.tuning.tables import Placed

# A row, and all that was looked at to find it.
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
        winner=Evaluation(row.config, row.seconds),
        alternatives=tuple(Evaluation(config, seconds) for config, seconds in row.alternatives),
        versions={name: text for name, text in {**versions, "method": row.method}.items() if text},
    )
