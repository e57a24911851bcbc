"""Optuna's journal file: checked and mended before anything is appended to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hwsearch.errors import HwsearchError


def mend_journal(path: Path) -> str | None:
    """Cut off a torn last line, which is what a killed process leaves; say so if there was one.

    The caller holds the run folder's lock, so a lock that the killed writer left is removed too.
    Raises HwsearchError, and leaves the file as it is, where any other line is broken.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return None
    whole = 0
    with open(path, "rb") as file:
        lines = file.readlines()
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n") and _is_record(line):
            whole += len(line)
        elif number == len(lines):
            os.truncate(path, whole)
            return f"{path}:{number}: a kill tore the last line; cut it off, the trials before it are whole"
        else:
            raise HwsearchError(
                f"{path}:{number}: not a record of Optuna's journal, and not the last line;"
                " accepted: one JSON object with op_code a line."
                " Restore the file, or start anew with another --out"
            )
    return None


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("op_code"), int)
