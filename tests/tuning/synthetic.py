"""A made-up kernel, small enough for tests: smooth, with a failing corner and one best configuration."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ["block", "tile", "unroll", "layout", "constant"]
CHOICES: list[list[Any]] = [
    [16, 32, 48, 64, 96, 128, 256],
    [1, 2, 3, 4, 6, 8],
    [0, 1, 2, 4],
    ["row", "column"],
    [7],
]


def cache(scale: float = 1.0) -> dict[str, Any]:
    """A Kernel Tuner cache of 300 configurations; `scale` turns its milliseconds into another unit."""
    entries = {}
    for block, tile, unroll, layout, constant in itertools.product(*CHOICES):
        if block * tile > 1024:
            continue
        settings = dict(zip(NAMES, (block, tile, unroll, layout, constant), strict=True))
        log = (
            (np.log2(block) - 6) ** 2 / 4 + (tile - 4) ** 2 / 8 + abs(unroll - 2) / 4 + (layout == "row") / 2
        )
        failed = unroll == 4 and block >= 128
        entries[",".join(map(str, settings.values()))] = {
            **settings,
            "time": "CompilationFailedConfig" if failed else scale * float(np.exp(log)),
            "compile_time": 900.0 * scale,
            "verification_time": 0.0,
            "benchmark_time": 0.0 if failed else 90.0 * scale,
            "framework_time": 10.0 * scale,
            "strategy_time": 5000.0,
        }
    return {
        "device_name": "none",
        "kernel_name": "made up",
        "problem_size": 1,
        "tune_params_keys": NAMES,
        "tune_params": dict(zip(NAMES, CHOICES, strict=True)),
        "objective": "time",
        "cache": entries,
    }


def t4() -> dict[str, Any]:
    """The same records as T4 results."""
    results = []
    for entry in cache()["cache"].values():
        failed = isinstance(entry["time"], str)
        results.append(
            {
                "configuration": {name: entry[name] for name in NAMES},
                "times": {
                    "compilation": entry["compile_time"],
                    "benchmark": entry["benchmark_time"],
                    "framework": entry["framework_time"],
                    "validation": entry["verification_time"],
                    "search_algorithm": 5000.0,
                    "runtimes": [],
                },
                "invalidity": "compile" if failed else "correct",
                "correctness": 1,
                "objectives": ["time"],
                "measurements": [] if failed else [{"name": "time", "value": entry["time"], "unit": "ms"}],
            }
        )
    return {"schema_version": "1.0.0", "results": results}


def t1(*conditions: str) -> dict[str, Any]:
    return {
        "General": {"BenchmarkName": "made up"},
        "ConfigurationSpace": {
            "TuningParameters": [
                {"Name": name, "Type": "int", "Values": str(values)}
                for name, values in zip(NAMES, CHOICES, strict=True)
            ],
            "Conditions": [{"Expression": condition, "Parameters": []} for condition in conditions],
        },
    }


def write(path: Path, document: Any) -> Path:
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
