"""measurements.jsonl: every measurement of a run, on disk before anybody builds on it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text
from hwsearch.measure.row import Row
from hwsearch.search.record_file import Record, mend

# What a failed job's row says in place of times.
FAILED = "failed"


class Measurements:
    """The rows of one file by GPU and job; the folder's owner alone appends."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """Read what is there, its torn last line cut off. Raises HwsearchError for any other broken line."""
        self.path = path
        self._rows: dict[tuple[str, str], Row] = {}
        if message := mend(
            path, _is_row, "not a measurement (one JSON object with key, gpu and p50_s a line)"
        ):
            warn(message)
        if path.exists():
            for line in read_text(path).splitlines():
                self._keep(json.loads(line))

    def find(self, gpu: str, key: str) -> Row | None:
        """What is known of a job on a GPU, failures included."""
        return self._rows.get((gpu, key))

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def append(self, row: Row) -> None:
        """Write a row through to the disk.

        Raises HwsearchError where it is no row, or cannot be written; the file is as it was then.
        """
        if not _is_row(row):
            raise HwsearchError(f"{self.path}: not a measurement: {str(row)[:200]}")
        line = json.dumps(row).encode() + b"\n"
        try:
            with open(self.path, "ab", buffering=0) as file:
                before = file.seek(0, os.SEEK_END)
                try:
                    if file.write(line) != len(line):  # a disk takes what fits
                        raise OSError("no space left for a row")
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)
                    raise
        except OSError as error:
            raise HwsearchError(
                f"{self.path}: cannot write: {error.strerror or error}; the rows before are kept"
            ) from error
        self._keep(row)

    def _keep(self, row: Row) -> None:
        # A reference that failed is measured again, so the newest row counts.
        self._rows[str(row["gpu"]), str(row["key"])] = row


def _is_row(row: Record) -> bool:
    if not all(isinstance(row.get(name), str) for name in ("key", "gpu", "source")):
        return False
    seconds = row.get("p50_s")
    return row["source"] == FAILED or (isinstance(seconds, float) and math.isfinite(seconds) and seconds > 0)
