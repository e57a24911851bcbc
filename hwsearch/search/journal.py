"""Optuna's journal file: checked and mended before anything is appended to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.files import hold
from hwsearch.search.record_file import mend


@contextmanager
def claim_journal(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold a journal file for this process alone, mended; HwsearchError where it is in use or broken."""
    with claim_file(path, "journal"):
        if message := mend_journal(path):
            warn(message)
        yield


@contextmanager
def claim_file(path: Path, what: str) -> Iterator[None]:
    """Hold a study's file for this process alone; HwsearchError where it is in use or has no folder."""
    if not path.parent.is_dir():
        raise HwsearchError(f"{path}: no such folder {path.parent}")
    with hold(path.with_name(f".{path.name}.claim"), f"{path}: another hwsearch run is using this {what}"):
        yield


def mend_journal(path: Path) -> str | None:
    """Cut off a torn last line and say so, as `mend` does.

    The caller has claimed the journal, so a lock that the killed writer left is removed too.
    Raises HwsearchError, and leaves the file as it is, where any other line is broken.
    """
    with suppress(IsADirectoryError, PermissionError):
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return mend(
        path,
        lambda record: isinstance(record.get("op_code"), int),
        "not a record of Optuna's journal (one JSON object with op_code a line)",
    )
