"""What operator tables and model tables share: a GPU, dtype and runtime for every row, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hwsearch.cost.distinct import Seconds
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.csv_table import CsvTable, RowNumbers
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import DTYPES, Gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape.table import Column
from hwsearch.workload import MAX_LENGTH


@dataclass(frozen=True, eq=False)
class TableRows:
    """A table with what each of its rows runs on."""

    table: CsvTable
    gpus: list[Gpu]
    dtypes: list[str]
    runtimes: list[RuntimeName]

    def some(self, rows: RowNumbers, gpu: Gpu) -> TableRows:
        """The rows `rows` only, all of them on `gpu`."""
        chosen = rows.tolist()
        dtypes, runtimes = [self.dtypes[row] for row in chosen], [self.runtimes[row] for row in chosen]
        return TableRows(self.table.some(rows), [gpu] * len(chosen), dtypes, runtimes)

    def groups(self, rows: RowNumbers, *more: Sequence[object]) -> Iterator[tuple[int, RowNumbers]]:
        """`rows` parted by GPU, dtype, runtime and `more`, lists like `rows`.

        Yields the first row of each part, and the places of its rows in `rows`.
        """
        places: dict[tuple[object, ...], list[int]] = {}
        for place, (row, *rest) in enumerate(zip(rows.tolist(), *more, strict=True)):
            key = (self.gpus[row].name, self.dtypes[row], self.runtimes[row], *rest)
            places.setdefault(key, []).append(place)
        for found in places.values():
            yield int(rows[found[0]]), np.array(found)

    def require(self, names: Sequence[str], row: int, what: str) -> None:
        """Raise HwsearchError unless the table has all these columns, which `row` needs."""
        if missing := [name for name in names if name not in self.table.header]:
            raise HwsearchError(
                f"{self.table.where(row)}: {what} needs the column {missing[0]};"
                f" required: {', '.join(names)}; found: {', '.join(self.table.header)}"
            )

    @contextmanager
    def blame(self, row: int) -> Iterator[None]:
        """What goes wrong within is said with this row's line."""
        try:
            yield
        except HwsearchError as error:
            raise HwsearchError(f"{self.table.where(row)}: {error}") from error


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known about each of N rows.

    Attributes:
        seconds, low, high: [N], the latter two of a 90 % interval.
        calibration: where the constants behind each row come from.
        peak_bytes: [N], of models only.
    """

    seconds: Seconds
    low: Seconds
    high: Seconds
    calibration: list[str]
    peak_bytes: Seconds | None = None

    @classmethod
    def empty(cls, count: int, *, models: bool) -> Answer:
        """To be filled in."""
        seconds, low, high, peak = np.full((4, count), np.nan)
        return cls(seconds, low, high, [""] * count, peak if models else None)

    def fill(
        self, rows: RowNumbers, seconds: Seconds, factors: tuple[float, float], calibration: str
    ) -> None:
        self.seconds[rows] = seconds
        self.low[rows], self.high[rows] = seconds * factors[0], seconds * factors[1]
        for row in rows.tolist():
            self.calibration[row] = calibration


def settle_rows(table: CsvTable, gpu: Gpu, dtype: str | None, runtime: RuntimeName) -> TableRows:
    """Columns gpu, dtype and runtime where the table has them, else what is given; `dtype` None is each
    GPU's default. Raises HwsearchError for a name that is not known and a dtype that a GPU lacks."""
    gpus = _gpus(table, gpu)
    dtypes = table.words("dtype", {**{name: name for name in DTYPES}, "": dtype or ""})
    dtypes = [name or gpu.default_dtype for name, gpu in zip(dtypes, gpus, strict=True)]
    checked = set()
    for row, (each, name) in enumerate(zip(gpus, dtypes, strict=True)):
        if (each.name, name) not in checked:
            checked.add((each.name, name))
            try:
                each.check_dtype(name)
            except HwsearchError as error:
                where = "dtype" if table.column("dtype", np.array([row]))[0] else "--dtype"
                raise HwsearchError(f"{table.where(row)}: {where}: {error}") from error
    known: dict[str, RuntimeName] = {name: name for name in RUNTIMES}
    return TableRows(table, gpus, dtypes, table.words("runtime", {**known, "": runtime}))


def _gpus(table: CsvTable, gpu: Gpu) -> list[Gpu]:
    loaded = {"": gpu, gpu.name: gpu}
    names = table.column("gpu")
    for row, name in enumerate(names):
        if name not in loaded:
            try:
                loaded[name] = load_gpu(name)
            except HwsearchError as error:
                raise HwsearchError(f"{table.where(row)}: column gpu: {error}") from error
    return [loaded[name] for name in names]


def read_window(rows: TableRows, chosen: RowNumbers) -> Column:
    """Keys to each side; -1 where the cell is empty, 0 or -1: no window."""
    window = rows.table.integers("window", -1, MAX_LENGTH, chosen, blank=-1)
    return np.where(window == 0, -1, window)
