"""A line of measurements.jsonl: what was asked, what was found or why nothing was. Plain values by name."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import make_folder
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.settings import Settings
from hwsearch.shape.flops import count_flops

Row = dict[str, Any]

# Packages whose version decides how fast a shape is: times of two are not compared. The drivers of a pool
# differ, and each row says its own.
DECISIVE = ("torch", "triton", "flash-attn")


def measured_row(job: Job, found: Row, note: str | None) -> Row:
    """`found` is what `EncoderBench.time` returns; docs/measuring.md says what each name means."""
    return {**_asked(job), "source": "measured", **found, "note": note, "at": _now()}


def failed_row(job: Job, gpu: str | None, failure: Failure) -> Row:
    """The same for a job without an answer: no times; `gpu` is the profile's name."""
    failed = {"source": "failed", "failure": failure.kind, "reason": failure.reason}
    return {**_asked(job), "gpu": gpu, **failed, "versions": versions(None, None), "at": _now()}


def add_row(path: Path, row: Row) -> None:
    """Add `row` to a file of such lines, which is made if need be; on disk when this returns.

    Devices and pipes are written to. Raises HwsearchError where that cannot be.
    """
    line = json.dumps(row, allow_nan=False) + "\n"
    try:
        make_folder(path.parent)
        is_file = path.is_file() or not path.exists()
        # What was cut off by a full disk or a power cut stays a line of its own.
        if is_file and _is_torn(path):
            line = "\n" + line
        with path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            if is_file:
                os.fsync(file.fileno())
    except OSError as error:
        raise HwsearchError(f"{path}: cannot write: {error.strerror}") from error


def _is_torn(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def versions(cuda: str | None, driver: str | None) -> dict[str, str | None]:
    """Of what the time may depend on; None for what is not installed."""
    packages = {name: _version(name) for name in ("hwsearch", "torch", "triton", "flash-attn")}
    return {**packages, "cuda": cuda, "driver": driver, "python": platform.python_version()}


def _asked(job: Job) -> Row:
    settings = Settings(job.mode, job.runtime, job.head, job.dtype)
    tokens = job.workload.tokens
    flops = count_flops(job.shape, job.workload.lengths, head_tokens=settings.head_tokens(tokens))
    return {
        "key": job.key,
        "shape": str(job.shape),
        "shape_hash": job.shape.hash(),
        "workload": job.workload.spec,
        "tokens": tokens,
        "dtype": job.dtype,
        "mode": job.mode,
        "runtime": job.runtime,
        "head": job.head,
        "forced": job.backend,
        "flops": flops.training if settings.training else flops.forward,
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
