"""JSON files of other programs, plain or gzipped, read whole and with one clear error."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError

GZIP_MAGIC = b"\x1f\x8b"


def read_json(path: Path, max_bytes: int) -> Any:
    """The document in `path`, whether gzipped or not; HwsearchError where it holds none.

    Kernel Tuner leaves the last braces of a cache that it still appends to unwritten: they are added.
    """
    text = _text(path, max_bytes)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise HwsearchError(f"{path}: nested too deeply") from error
    except ValueError as error:
        try:
            return json.loads(text.rstrip().removesuffix(",") + "}}")
        except (ValueError, RecursionError):
            raise HwsearchError(f"{path}: not JSON: {error}") from error


def _text(path: Path, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise HwsearchError(f"{path}: a broken gzip file: {error}") from error
    except OSError as error:
        raise HwsearchError(f"{path}: cannot read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise HwsearchError(f"{path}: larger than the {max_bytes:,} bytes accepted here")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HwsearchError(f"{path}: not UTF-8 text (byte {error.start})") from error
