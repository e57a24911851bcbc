"""Reading a run's summary back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text
from hwsearch.search.run_folder import RunFolder

Summary = dict[str, Any]


def read_summary(folder: RunFolder) -> Summary:
    """Raises HwsearchError where the folder holds no finished run."""
    if not folder.summary.is_file():
        raise HwsearchError(f"{folder.path}: holds no finished run (no {folder.summary.name})")
    return _read(folder.summary)


def read_measured(folder: RunFolder) -> Summary | None:
    """What the measured rung found; None where the run has not come that far. Raises HwsearchError."""
    return _read(folder.measured_summary) if folder.measured_summary.is_file() else None


def _read(path: Path) -> Summary:
    try:
        summary = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise HwsearchError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise HwsearchError(f"{path}: not a run's summary: {error}") from error
    if not isinstance(summary, dict) or "winners" not in summary:
        raise HwsearchError(f"{path}: is not a run's summary")
    return summary
