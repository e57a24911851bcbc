"""Recorded spaces from files: Kernel Tuner's cache, and T4 results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.tuning.json_file import read_json
from hwsearch.tuning.recorded import RecordedSpace
from hwsearch.tuning.tuning_space import Setting, TuningSpace

LARGEST_CACHE_BYTES = 2 << 30
FORMATS = (
    "accepted: a Kernel Tuner cache (tune_params_keys, cache) or T4 results (results), .json or .json.gz"
)

# What Kernel Tuner writes in place of a number; old versions wrote a time of 1e20.
KERNEL_TUNER_FAILURES = ("ErrorConfig", "InvalidConfig", "CompilationFailedConfig", "RuntimeFailedConfig")
OLD_FAILURE = 1e20
KERNEL_TUNER_COSTS = ("compile_time", "verification_time", "benchmark_time", "framework_time")

# Of each cost, the names that T4's schema and Kernel Tuner's T4 files give it.
T4_COSTS = (
    ("compilation", "compilation_time"),
    ("validation",),
    ("benchmark", "benchmark_time"),
    ("framework",),
)


@dataclass(frozen=True)
class _Record:
    """One measured configuration: its time or its failure, and its cost in ms."""

    settings: tuple[Setting, ...]
    time: float
    failure: str | None
    cost: float


def read_recorded(path: Path) -> RecordedSpace:
    """The space in a cache or T4 file. Raises HwsearchError, naming the record and key, for any other."""
    document = read_json(path, LARGEST_CACHE_BYTES)
    if isinstance(document, dict) and "cache" in document:
        names, records = _kernel_tuner(document, path)
    elif isinstance(document, dict) and "results" in document:
        names, records = _t4(document, path)
    else:
        found = ", ".join(list(document)[:8]) if isinstance(document, dict) else type(document).__name__
        raise HwsearchError(f"{path}: found {found or 'nothing'}; {FORMATS}")
    if not records:
        raise HwsearchError(f"{path}: holds no configuration")
    if repeated := _repeated(records):
        raise HwsearchError(f"{path}: holds {dict(zip(names, repeated, strict=True))} twice")
    if all(record.failure for record in records):
        raise HwsearchError(f"{path}: every configuration in it has failed")
    return RecordedSpace(
        TuningSpace.of(names, [record.settings for record in records]),
        np.array([math.nan if record.failure else record.time for record in records]),
        np.array([record.cost for record in records]) / 1000,
        {row: record.failure for row, record in enumerate(records) if record.failure},
    )


def _kernel_tuner(document: Mapping[str, Any], path: Path) -> tuple[list[str], list[_Record]]:
    names = document.get("tune_params_keys")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise HwsearchError(f"{path}: tune_params_keys is no list of names; {FORMATS}")
    if len(set(names)) < len(names):
        raise HwsearchError(f"{path}: tune_params_keys names a parameter twice")
    cache = document["cache"]
    if not isinstance(cache, dict):
        raise HwsearchError(f"{path}: cache is {type(cache).__name__}; {FORMATS}")
    return names, list(_kernel_tuner_records(cache, names, path))


def _kernel_tuner_records(cache: Mapping[str, Any], names: list[str], path: Path) -> Iterator[_Record]:
    for key, entry in cache.items():
        where = f"{path}: cache[{key!r}]"
        if not isinstance(entry, dict):
            raise HwsearchError(f"{where} is {type(entry).__name__}; accepted: an object")
        failure = next((str(entry[k]) for k in ("__error__", "time") if _is_failure(entry.get(k))), None)
        failure = failure or next((v for v in entry.values() if v in KERNEL_TUNER_FAILURES), None)
        if not failure and "time" not in entry:
            raise HwsearchError(f"{where} has no time; {FORMATS}")
        yield _Record(
            _settings(entry, names, where),
            math.nan if failure else _time(entry["time"], where),
            failure,
            sum(_cost(entry, (name,), where, bool(failure)) for name in KERNEL_TUNER_COSTS),
        )


def _t4(document: Mapping[str, Any], path: Path) -> tuple[list[str], list[_Record]]:
    results = document["results"]
    if not isinstance(results, list):
        raise HwsearchError(f"{path}: results is {type(results).__name__}; {FORMATS}")
    records: list[_Record] = []
    names: list[str] = []
    for place, entry in enumerate(results):
        where = f"{path}: results[{place}]"
        for key, kind in (("configuration", dict), ("times", dict), ("invalidity", str)):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise HwsearchError(f"{where} has no {key}; {FORMATS}")
        names = names or list(entry["configuration"])
        if not names or set(entry["configuration"]) != set(names):
            raise HwsearchError(f"{where} has other parameters than the first: {', '.join(names) or 'none'}")
        failure = None if entry["invalidity"] == "correct" else entry["invalidity"]
        records.append(
            _Record(
                _settings(entry["configuration"], names, where),
                math.nan if failure else _t4_time(entry, where),
                failure,
                sum(_cost(entry["times"], names_, f"{where}: times", bool(failure)) for names_ in T4_COSTS),
            )
        )
    return names, records


def _t4_time(entry: Mapping[str, Any], where: str) -> float:
    measurements = entry.get("measurements")
    if not isinstance(measurements, list):
        raise HwsearchError(f"{where} has no measurements; {FORMATS}")
    for measurement in measurements:
        if isinstance(measurement, dict) and measurement.get("name") == "time" and "value" in measurement:
            return _time(measurement["value"], where)
    raise HwsearchError(f"{where} has no measurement named time; {FORMATS}")


def _settings(entry: Mapping[str, Any], names: list[str], where: str) -> tuple[Setting, ...]:
    for name in names:
        if name not in entry:
            raise HwsearchError(f"{where} has no {name}, a parameter of this file")
        value = entry[name]
        if (
            not isinstance(value, bool | int | float | str)
            or value != value
            or value in (math.inf, -math.inf)
        ):
            raise HwsearchError(f"{where}: {name} is {value!r}; accepted: a number, true, false or a word")
    return tuple(entry[name] for name in names)


def _is_failure(value: Any) -> bool:
    return isinstance(value, str) or value == OLD_FAILURE


def _time(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise HwsearchError(f"{where}: time is {value!r}; accepted: a positive number, or a failure's name")
    return float(value)


def _cost(entry: Mapping[str, Any], names: tuple[str, ...], where: str, failed: bool) -> float:
    """One part of a configuration's cost in ms; a failed one need not have gone through every part."""
    value = next((entry[name] for name in names if name in entry), 0.0 if failed else None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise HwsearchError(f"{where}: {names[0]} is {value!r}; accepted: milliseconds, 0 or more")
    return float(value)


def _repeated(records: list[_Record]) -> tuple[Setting, ...] | None:
    seen: set[tuple[Setting, ...]] = set()
    for record in records:
        if record.settings in seen:
            return record.settings
        seen.add(record.settings)
    return None
