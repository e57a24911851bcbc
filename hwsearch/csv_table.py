"""A CSV table that is answered: its cells with their lines, and the same text with columns added.

The standard library's csv module: a table of 100,000 rows is read in a fraction of the time that importing
pandas takes, and every cell keeps the text that the user wrote.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text

MAX_CSV_BYTES = 256 << 20
SHOWN_CHARACTERS = 40
BYTE_ORDER_MARK = "\ufeff"
# What a cell that says yes or no may hold, as programs write it; empty is no.
FLAGS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

Value = TypeVar("Value")
RowNumbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CsvTable:
    """The rows of one CSV file.

    Attributes:
        path: for messages.
        header: the column names, blanks around them removed.
        header_line: the line on which they stand.
        cells: every row's cells, blanks around them removed.
        lines: the line of the file on which each row starts.
        records: the file's own text, record by record, the header and empty lines included.
        places: the index in `records` of each row.
        byte_order_mark: what the file began with, or nothing.
    """

    path: Path
    header: tuple[str, ...]
    header_line: int
    cells: list[list[str]]
    lines: list[int]
    records: list[str]
    places: list[int]
    byte_order_mark: str

    def __len__(self) -> int:
        return len(self.cells)

    def column(self, name: str, rows: RowNumbers | None = None) -> list[str]:
        """The cells of one column, in `rows` or in all; empty texts where there is no such column."""
        if name not in self.header:
            return [""] * len(self if rows is None else rows)
        place = self.header.index(name)
        if rows is None:
            return [cells[place] for cells in self.cells]
        return [self.cells[row][place] for row in rows.tolist()]

    def read(
        self, name: str, parse: Callable[[str], Value | None], accepted: str, rows: RowNumbers | None = None
    ) -> list[Value]:
        """Parsed cells of one column; HwsearchError with the line of the first for which `parse` is None."""
        texts = self.column(name, rows)
        values = {text: parse(text) for text in set(texts)}
        if any(value is None for value in values.values()):
            place = next(i for i, text in enumerate(texts) if values[text] is None)
            row = place if rows is None else int(rows[place])
            raise self.error(row, name, texts[place], accepted)
        return [values[text] for text in texts]  # type: ignore[misc]  # None was refused above

    def integers(
        self, name: str, low: int, high: int, rows: RowNumbers, blank: int | None = None
    ) -> NDArray[np.int64]:
        """Whole numbers from `low` to `high`, [rows]; `blank` stands for an empty cell, None for an error."""

        def parse(text: str) -> int | None:
            value = blank if text == "" else whole_number(text)
            return value if value is None or low <= value <= high or text == "" else None

        accepted = f"a whole number from {low:,} to {high:,}" + (
            "" if blank is None else ", or an empty cell"
        )
        return np.array(self.read(name, parse, accepted, rows), dtype=np.int64)

    def flags(self, name: str, rows: RowNumbers) -> list[bool]:
        """Cells that say yes or no."""
        return self.read(name, lambda text: FLAGS.get(text.lower()), "0, 1, or an empty cell for 0", rows)

    def words(self, name: str, meaning: Mapping[str, Value], rows: RowNumbers | None = None) -> list[Value]:
        """What each cell stands for by `meaning`, which may hold the empty text."""
        listed = [text or "an empty cell" for text in meaning]
        return self.read(name, meaning.get, ", ".join(listed), rows)

    def error(self, row: int, name: str, found: str, accepted: str) -> HwsearchError:
        shown = found if len(found) <= SHOWN_CHARACTERS else f"{found[:SHOWN_CHARACTERS]}..."
        return HwsearchError(
            f"{self.where(row)}: column {name}: found {repr(shown) if found else 'an empty cell'};"
            f" accepted: {accepted}"
        )

    def where(self, row: int) -> str:
        return f"{self.path}:{self.lines[row]}"

    def with_columns(self, columns: Mapping[str, Sequence[str]]) -> str:
        """The file's own text with a cell per row of each of `columns` (plain words and numbers) added."""
        records = list(self.records)
        first = next(index for index, record in enumerate(records) if record.strip())
        records[first] = _extended(records[first], ",".join(columns))
        for place, added in zip(self.places, zip(*columns.values(), strict=True), strict=True):
            records[place] = _extended(records[place], ",".join(added))
        return self.byte_order_mark + "".join(records)


def whole_number(text: str) -> int | None:
    """12, 12.0 (as pandas writes whole numbers beside empty cells) or 1e6; None for anything else."""
    if not text.isascii() or "_" in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def read_csv(path: Path) -> CsvTable:
    """Read a table: UTF-8, commas, one header.

    Raises HwsearchError for a file that cannot be read or has no rows, for a column that stands there twice,
    and for rows that have not as many cells as the header.
    """
    text = read_text(path, MAX_CSV_BYTES)
    content = text.removeprefix(BYTE_ORDER_MARK)
    source = _Recorder(content)
    reader = csv.reader(source, strict=True)
    header: tuple[str, ...] | None = None
    header_line = 1
    cells: list[list[str]] = []
    lines: list[int] = []
    records: list[str] = []
    places: list[int] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise HwsearchError(f"{path}:{line}: not valid CSV: {error}") from error
        record = source.take()
        if record:
            records.append(record)
        if row is None:
            break
        row = [cell.strip() for cell in row]
        if not row or row == [""]:
            continue
        if header is None:
            header, header_line = tuple(row), line
            _check_header(path, line, header)
            continue
        if len(row) != len(header):
            raise HwsearchError(f"{path}:{line}: {len(row)} cells; the header has {len(header)} columns")
        cells.append(row)
        lines.append(line)
        places.append(len(records) - 1)
    if header is None:
        raise HwsearchError(f"{path}: is empty; accepted: a table with a header and at least one row")
    if not cells:
        raise HwsearchError(f"{path}: has a header but no rows")
    return CsvTable(
        path, header, header_line, cells, lines, records, places, text[: len(text) - len(content)]
    )


def _check_header(path: Path, line: int, header: tuple[str, ...]) -> None:
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise HwsearchError(f"{path}:{line}: the column {name!r} stands here {count} times")


class _Recorder:
    """Lines for csv.reader, which remembers the text of the record that is being read."""

    def __init__(self, text: str) -> None:
        self._lines: Iterator[str] = iter(io.StringIO(text, newline=""))
        self._taken: list[str] = []

    def __iter__(self) -> _Recorder:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    def take(self) -> str:
        record = "".join(self._taken)
        self._taken.clear()
        return record


def _extended(record: str, added: str) -> str:
    """The record with cells added before its line ending."""
    content = record.rstrip("\r\n")
    return f"{content},{added}{record[len(content) :] or chr(10)}"
