"""T4 results, the format in which Kernel Tuner writes what it measured: writing ours in it, and reading it.

Times are in milliseconds. A file is one search: of one kernel, on one GPU, for one key of a table. What T4
has no place for stands in its metadata under "hwsearch", so that a file of ours says itself where it belongs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.kernels.triton_attention.space import ABSENT, trimmed
from hwsearch.kernels.tuned_table import KERNELS, Config, Row, Table, row_of
from hwsearch.tuning.cache_file import LARGEST_CACHE_BYTES, read_recorded
from hwsearch.tuning.json_file import read_json
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.table_file import ALTERNATIVES, record_of

SCHEMA_VERSION = "1.0.0"
# Why a configuration has no time, in T4's words; and what Kernel Tuner writes in the time's place.
FAILURES = {
    "timeout": "RuntimeFailedConfig",
    "compile": "CompilationFailedConfig",
    "runtime": "RuntimeFailedConfig",
    "correctness": "RuntimeFailedConfig",
    "constraints": "InvalidConfig",
}
# What a row need not know.
_UNKNOWN = dict.fromkeys(("default_seconds", "spread", "joules", "triton", "torch", "driver"))
_SECONDS = {"milliseconds": 1e-3, "seconds": 1.0, "microseconds": 1e-6, "nanoseconds": 1e-9}


@dataclass(frozen=True)
class Evaluation:
    """One configuration that a search looked at, and what looking at it cost, all in seconds.

    Attributes:
        seconds: None where it failed, and then `failure` is one of FAILURES.
        runs: each timing that `seconds` was made of.
        joules: of one call, where energy was measured.
        timestamp: when, in ISO 8601; None where nobody noted it.
    """

    config: Config
    seconds: float | None
    failure: str | None = None
    runs: tuple[float, ...] = ()
    joules: float | None = None
    compile_s: float = 0.0
    verification_s: float = 0.0
    benchmark_s: float = 0.0
    framework_s: float = 0.0
    search_s: float = 0.0
    timestamp: str | None = None


@dataclass(frozen=True)
class Imported:
    """A row, and the table that it belongs to."""

    kernel: str
    gpu: str
    row: Row


def export_t4(
    path: Path, kernel: str, gpu: str, row: Row, evaluations: Iterable[Evaluation], objective: str = "time"
) -> None:
    """Write all that a search looked at, in order; `row` is what it found, `objective` "time" or "energy".

    Every configuration has the same settings, 0 or false where they say nothing, as T4's readers expect.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "metadata": {
            "timeunit": "milliseconds",
            "hwsearch": {"kernel": kernel, "gpu": gpu, **record_of(row)},
        },
        "results": [_result(each, objective) for each in evaluations],
    }
    write_whole(path, json.dumps(document, indent=1) + "\n")


def t4_path(folder: Path, table: Table, row: Row) -> Path:
    """GPU/KERNEL-DTYPE-HEADSIZE-WINDOW-LENGTH-SOURCE.json in `folder`."""
    key = row.key
    name = f"{table.kernel}-{key.dtype}-{key.head_size}-{key.window}-{key.length}-{row.source}.json"
    gpu: str = table.gpu
    return folder / gpu / name


def kept(row: Row) -> list[Evaluation]:
    """What a table keeps of a search: the best and its alternatives; what finding them cost is 0."""
    best = Evaluation(row.config, row.seconds, joules=row.joules)
    return [best, *(Evaluation(config, seconds) for config, seconds in row.alternatives)]


def import_t4(
    path: Path, about: Mapping[str, object] | None = None, otherwise: Mapping[str, object] | None = None
) -> Imported:
    """The row that a T4 file holds; of other tuners' files the fastest configuration and the next best.

    Args:
        about: what counts whatever the file says, under the names of a row in a table: `kernel`, `gpu`,
            `dtype`, `head_size`, `window`, `length`, `source`, `workload`, `heads`, `date`, `method`, and, if
            they are known, `default_seconds`, `spread`, `joules`, `triton`, `torch`, `driver`.
        otherwise: what counts where the file does not say. Files of ours say everything.

    Raises HwsearchError for a file of another format, one whose configurations are not the kernel's, and for
    what neither the file nor `about` says.
    """
    recorded = read_recorded(path)
    document = read_json(path, LARGEST_CACHE_BYTES)
    metadata = document.get("metadata") if isinstance(document, dict) else None
    fastest = _fastest(recorded, _time_unit(metadata, path))
    record: dict[str, Any] = {
        **_UNKNOWN, **(otherwise or {}), **fastest, **_said(metadata, path), **(about or {}),
    }  # fmt: skip
    kernel, gpu = record.pop("kernel", None), record.pop("gpu", None)
    if kernel not in KERNELS:
        raise HwsearchError(f"{path}: kernel: {kernel!r}; accepted: {', '.join(KERNELS)}")
    if not isinstance(gpu, str):
        raise HwsearchError(f"{path}: gpu: {gpu!r}; accepted: the name of a GPU profile")
    try:
        return Imported(kernel, gpu, row_of(record, kernel, "its row"))
    except ValueError as error:
        raise HwsearchError(f"{path}: {error}") from error


def _fastest(recorded: RecordedSpace, unit: float) -> dict[str, Any]:
    """The best and the next best of a search, as a row of a table has them."""
    succeeded = len(recorded) - len(recorded.failures)
    best, *others = [
        {
            "config": trimmed(recorded.space.configuration(place)),
            "seconds": float(recorded.times[place]) * unit,
        }
        for place in np.argsort(recorded.times, kind="stable").tolist()[: min(1 + ALTERNATIVES, succeeded)]
    ]
    return {**best, "alternatives": others}


def _result(evaluation: Evaluation, objective: str) -> dict[str, Any]:
    """As kernel_tuner.file_utils.get_t4_results writes one."""
    failure = evaluation.failure
    if (failure is None) != (evaluation.seconds is not None) or failure not in (None, *FAILURES):
        raise ValueError(f"failure: {failure!r}; accepted: {', '.join(FAILURES)}, or None beside a time")
    time = FAILURES[failure] if failure is not None else 1e3 * (evaluation.seconds or 0)
    measurements: list[dict[str, object]] = [{"name": "time", "value": time, "unit": "ms"}]
    if evaluation.joules is not None:
        measurements.append({"name": "energy", "value": evaluation.joules, "unit": "J"})
    return {
        **({"timestamp": evaluation.timestamp} if evaluation.timestamp else {}),
        "configuration": _filled(evaluation.config),
        "times": {
            "compilation": 1e3 * evaluation.compile_s,
            "benchmark": 1e3 * evaluation.benchmark_s,
            "framework": 1e3 * evaluation.framework_s,
            "search_algorithm": 1e3 * evaluation.search_s,
            "validation": 1e3 * evaluation.verification_s,
            "runtimes": [1e3 * each for each in evaluation.runs],
        },
        "invalidity": failure or "correct",
        "correctness": 0 if failure == "correctness" else 1,
        "measurements": measurements,
        "objectives": [objective],
    }


def _filled(config: Config) -> dict[str, object]:
    """With the settings that say nothing; of the backward, one pass has others than two kernels."""
    return {"one_pass": config["one_pass"], **ABSENT, **config} if "one_pass" in config else dict(config)


def _said(metadata: Any, path: Path) -> dict[str, object]:
    said = metadata.get("hwsearch", {}) if isinstance(metadata, dict) else {}
    if not isinstance(said, dict):
        raise HwsearchError(f"{path}: metadata: hwsearch is {type(said).__name__}; accepted: an object")
    return said


def _time_unit(metadata: Any, path: Path) -> float:
    """Seconds in the file's unit of time; Kernel Tuner names it in its metadata."""
    unit = metadata.get("timeunit", "milliseconds") if isinstance(metadata, dict) else "milliseconds"
    if unit not in _SECONDS:
        raise HwsearchError(f"{path}: metadata: timeunit is {unit!r}; accepted: {', '.join(_SECONDS)}")
    return _SECONDS[unit]
