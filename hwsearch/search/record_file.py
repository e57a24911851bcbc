"""Files to which one JSON record a line is appended: mended after a kill, before anything is appended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError

Record = dict[str, Any]


def mend(path: Path, is_record: Callable[[Record], bool], refused: str) -> str | None:
    """Cut off a torn last line, which is what a killed process leaves; say so if there was one.

    Raises HwsearchError with `refused`, and leaves the file as it is, where any other line is broken.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise HwsearchError(f"{path}: is not a file; accepted: a file of records, or none yet")
    whole = 0
    with open(path, "rb") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if line.endswith(b"\n") and record is not None and is_record(record):
            whole += len(line)
        elif number == len(lines):
            os.truncate(path, whole)
            return f"{path}:{number}: a kill tore the last line; cut it off, the ones before it are whole"
        else:
            raise HwsearchError(
                f"{path}:{number}: {refused}, and not the last line."
                " Restore the file, or start anew with another --out"
            )
    return None


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
