"""Documents from JSON lines and parquet, one a row, through the datasets library."""

from __future__ import annotations

import glob
import logging
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

    Raises HwsearchError for a file that cannot be read as its name says, and one that has no column
    of text.
    """
    if path.is_file() and path.stat().st_size == 0:
        return
    # Imported here: it takes a second, and plain text needs none of it.
    import datasets

    kind = "parquet" if path.name.lower().endswith(PARQUET) else "json"
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it logs, it raises as well
    try:
        rows: Any = datasets.load_dataset(
            kind, data_files=glob.escape(str(path)), split="train", streaming=True
        )
        columns = rows.column_names or list(next(iter(rows), {}))
        column = next((name for name in TEXT_COLUMNS if name in columns), None)
        if column is None:
            accepted = " or ".join(TEXT_COLUMNS)
            raise HwsearchError(
                f"{path}: no column of text; it has {', '.join(columns)}; accepted: {accepted}"
            )
        for number, row in enumerate(rows.select_columns([column])):
            text = row[column]
            if not isinstance(text, str | None):
                raise HwsearchError(f"{path}: row {number + 1}: {column} is {text!r:.80}; accepted: text")
            if text:
                yield text
    except HwsearchError:
        raise
    except Exception as error:  # the library passes on whatever pyarrow, json or the file system raise
        what = "parquet" if kind == "parquet" else "JSON lines"
        raise HwsearchError(f"{path}: cannot be read as {what}: {error}") from error
