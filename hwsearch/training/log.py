"""metrics.jsonl: one JSON object a line, on disk as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from hwsearch.errors import HwsearchError


class MetricsLog:
    def __init__(self, path: Path) -> None:
        try:
            self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise HwsearchError(f"{path}: cannot write: {error.strerror}") from error

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
