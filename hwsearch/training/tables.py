"""Documents from JSON lines and parquet, one a row, through the datasets library."""

from __future__ import annotations

import glob
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
PARQUET = (".parquet",)
TEXT_COLUMNS = ("text", "content")


def is_table(path: Path) -> bool:
    return path.name.lower().endswith(JSON_LINES + PARQUET)


def table_texts(path: Path) -> Iterator[str]:
    """The text of each row; rows without text are left out.

    Raises HwsearchError for a file that cannot be read as its name says, and for rows that have no
    column of text.
    """
    kind = "parquet" if path.name.lower().endswith(PARQUET) else "JSON lines"
    rows = _parquet_rows(path) if kind == "parquet" else _json_rows(path)
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            if text := _text(row, f"{path}: row {number}"):
                yield text
    except HwsearchError:
        raise
    except Exception as error:  # the libraries pass on whatever pyarrow or the file system raises
        where = f" after row {number}" if number else ""
        hint = "; pip install zstandard" if "zstd not supported" in str(error) else ""
        raise HwsearchError(f"{path}: cannot be read as {kind}{where}: {error}{hint}") from error


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    columns = pyarrow.parquet.read_schema(path).names
    column = next((name for name in TEXT_COLUMNS if name in columns), None)
    if column is None:  # said by the first row
        yield dict.fromkeys(columns)
    else:
        yield from _stream("parquet", path, columns=[column])


def _json_rows(path: Path) -> Iterator[Any]:
    # Not the library's own reader of JSON, which wants the same columns, of one type, in the whole file.
    for line in _stream("text", path):
        if line["text"].strip():
            yield json.loads(line["text"])


def _stream(reader: str, path: Path, **options: Any) -> Iterator[Any]:
    if path.is_file() and path.stat().st_size == 0:  # the library wants a first row
        return
    # Imported here: it takes a second, and plain text needs none of it.
    import datasets

    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs, it raises as well
    pattern = glob.escape(str(path))
    # It writes no copy of what it streams, but a lock for each file, here rather than in the user's cache.
    with tempfile.TemporaryDirectory() as scratch:
        yield from datasets.load_dataset(
            reader, data_files=pattern, split="train", streaming=True, cache_dir=scratch, **options
        )


def _text(row: Any, where: str) -> str | None:
    accepted = f"accepted: {' or '.join(TEXT_COLUMNS)}"
    if not isinstance(row, dict):
        raise HwsearchError(f"{where}: is {row!r:.80}, not an object with named columns; {accepted}")
    column = next((name for name in TEXT_COLUMNS if name in row), None)
    if column is None:
        raise HwsearchError(f"{where}: no column of text; it has {', '.join(row)}; {accepted}")
    text = row[column]
    if not isinstance(text, str | None):
        raise HwsearchError(f"{where}: {column} is {text!r:.80}; accepted: text")
    return text
