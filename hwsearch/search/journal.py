"""Optuna's journal file: checked and mended before anything is appended to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.files import hold


@contextmanager
def claim_journal(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold a journal file for this process alone, mended; HwsearchError where it is in use or broken."""
    if not path.parent.is_dir():
        raise HwsearchError(f"{path}: no such folder {path.parent}")
    with hold(path.with_name(f".{path.name}.claim"), f"{path}: another hwsearch run is using this journal"):
        if message := mend_journal(path):
            warn(message)
        yield


def mend_journal(path: Path) -> str | None:
    """Cut off a torn last line, which is what a killed process leaves; say so if there was one.

    The caller has claimed the journal, so a lock that the killed writer left is removed too.
    Raises HwsearchError, and leaves the file as it is, where any other line is broken.
    """
    with suppress(IsADirectoryError, PermissionError):
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return None
    if not path.is_file():
        raise HwsearchError(f"{path}: is not a file; accepted: a journal file, or none yet")
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
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and isinstance(record.get("op_code"), int)
