"""Reading a run's summary back."""

from __future__ import annotations

import json
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text
from hwsearch.search.run_folder import RunFolder

Summary = dict[str, Any]


def read_summary(folder: RunFolder) -> Summary:
    """Raises HwsearchError where the folder holds no finished run."""
    if not folder.summary.is_file():
        raise HwsearchError(f"{folder.path}: holds no finished run (no {folder.summary.name})")
    try:
        summary = json.loads(read_text(folder.summary))
    except json.JSONDecodeError as error:
        raise HwsearchError(f"{folder.summary}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise HwsearchError(f"{folder.summary}: not a run's summary: {error}") from error
    if not isinstance(summary, dict) or "winners" not in summary:
        raise HwsearchError(f"{folder.summary}: is not a run's summary")
    return summary
