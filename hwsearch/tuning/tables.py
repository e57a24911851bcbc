"""The tuned tables in force: the user's own and those that ship, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.kernels.tuned import KERNELS, LENGTHS, SOURCES, WINDOWS, Key, Row, Table, folders, read_table


@dataclass(frozen=True)
class Placed:
    """A row, with the table and the file that hold it."""

    table: Table
    row: Row
    path: Path


def in_force(
    kernels: Sequence[str] = KERNELS, gpu: str | None = None, sources: Sequence[str] = SOURCES
) -> list[Placed]:
    """For each GPU, kernel and key the row that look-ups use there: the first of `sources` that has one, the
    user's own before what ships. Raises HwsearchError for a table that cannot be read, or that look-ups
    ignore where it lies."""
    best: dict[tuple[str, str, Key], Placed] = {}
    for source in sources:
        for placed in (each for each in _all(kernels, gpu) if each.row.source == source):
            best.setdefault((placed.table.gpu, placed.table.kernel, placed.row.key), placed)
    return sorted(best.values(), key=_order)


def _all(kernels: Sequence[str], gpu: str | None) -> list[Placed]:
    files = [f"{gpu or '*'}/{kernel}.json" for kernel in kernels]
    paths = (path for folder in folders() for file in files for path in sorted(folder.glob(file)))
    found = []
    for path in paths:
        try:
            table = read_table(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise HwsearchError(f"{path}: {reason}") from error
        if (table.gpu, table.kernel) != (path.parent.name, path.stem):
            raise HwsearchError(
                f"{path}: a table of {table.kernel} on {table.gpu}; accepted: what the path says"
            )
        found += [Placed(table, row, path) for row in table.rows]
    return found


def _order(placed: Placed) -> tuple[object, ...]:
    key = placed.row.key
    places = WINDOWS.index(key.window), LENGTHS.index(key.length)
    return placed.table.gpu, KERNELS.index(placed.table.kernel), key.dtype, key.head_size, *places
