"""hwsearch measure"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from hwsearch.errors import HwsearchError
from hwsearch.files import require_writable
from hwsearch.measure.beside_prediction import predicted_largest_batch, prediction_of
from hwsearch.measure.device import CUDA
from hwsearch.measure.device_at_hand import DeviceAtHand, device_at_hand
from hwsearch.measure.encoder import measure_job
from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.largest_batch import OF_ITS_SIZE, largest_batch
from hwsearch.measure.memory import free_bytes
from hwsearch.measure.row import Row, add_row, failed_row
from hwsearch.report.measured import largest_batch_text, measured_text
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.workload import DEFAULT_WORKLOAD, Workload, parse_workload

# Of what is free on a CPU: the rest of the machine goes on.
SHARE_OF_FREE = 0.9


def main(arguments: argparse.Namespace) -> None:
    _check_numbers(arguments)
    if find_spec("torch") is None:
        raise HwsearchError("measure needs the package torch; install it with: pip install 'hwsearch[train]'")
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        require_writable(out)
    asked = DEFAULT_WORKLOAD if arguments.workload is None else arguments.workload
    shape, workload = parse_shape(arguments.shape), parse_workload(asked)
    here = device_at_hand(arguments.device)
    job = _job(arguments, shape, workload, here)
    limit = _memory_limit(arguments, here) if arguments.largest_batch else None
    row = measure_job(
        job,
        device=here.device,
        index=here.index,
        precision=arguments.precision / 100,
        energy=arguments.energy,
        timeout_s=arguments.timeout,
    )
    if isinstance(row, Failure):
        _tell_failure(arguments, job, row, here, out, limit)
    job = replace(job, runtime=row["runtime"])
    answer = _compared(arguments, job, row, here)
    try:  # behind the table: neither a full disk nor Ctrl-C must hide what was measured
        if out is not None:
            add_row(out, row)
        if arguments.largest_batch:
            answer["largest_batch"] = _largest_batch(arguments, job, here, limit)
    finally:
        if arguments.json:
            print(json.dumps(answer))


def _tell_failure(
    arguments: argparse.Namespace,
    job: Job,
    failure: Failure,
    here: DeviceAtHand,
    out: Path | None,
    limit: int | None,
) -> NoReturn:
    row = failed_row(job, None if here.gpu is None else here.gpu.name, failure)
    message = f"{job.shape} on {here}: {str(failure).replace('HwsearchError: ', '')}"
    try:
        if out is not None:
            add_row(out, row)
    except HwsearchError as error:
        raise HwsearchError(f"{message}; {error}") from error
    # Too large a batch is what one asks that for.
    if arguments.largest_batch and failure.kind in OF_ITS_SIZE:
        found = _largest_batch(arguments, job, here, limit)
        if arguments.json:
            print(json.dumps({"row": row, "prediction": None, "ratio": None, "largest_batch": found}))
    raise HwsearchError(message)


def _job(arguments: argparse.Namespace, shape: EncoderShape, workload: Workload, here: DeviceAtHand) -> Job:
    if here.device == CUDA and here.gpu is not None and arguments.dtype:
        here.gpu.check_dtype(arguments.dtype)
    training = arguments.mode == "training"
    return Job(
        shape=shape,
        workload=workload,
        dtype=arguments.dtype or here.dtype,
        mode=arguments.mode,
        runtime=arguments.runtime or ("graph" if here.device == CUDA and not training else "eager"),
        head=arguments.head or ("mlm" if training else "none"),
        backend=arguments.backend,
    )


def _compared(arguments: argparse.Namespace, job: Job, row: Row, here: DeviceAtHand) -> dict[str, Any]:
    prediction, why_none = prediction_of(job, here.gpu)
    if not arguments.json:
        precision, energy = arguments.precision / 100, arguments.energy
        told = measured_text(row, here.gpu, prediction, why_none, precision=precision, energy=energy)
        print(told, flush=True)
    if prediction is None:
        return {"row": row, "prediction": None, "ratio": None}
    return {"row": row, "prediction": asdict(prediction), "ratio": row["p50_s"] / prediction.latency_s}


def _largest_batch(
    arguments: argparse.Namespace, job: Job, here: DeviceAtHand, limit: int | None
) -> dict[str, Any]:
    found = largest_batch(
        job,
        device=here.device,
        index=here.index,
        memory_bytes=limit,
        timeout_s=arguments.timeout,
        report=lambda line: print(line, file=sys.stderr),
    )
    predicted = predicted_largest_batch(job, here.gpu, limit)
    if not arguments.json:
        print(f"\n{largest_batch_text(found, limit, predicted)}")
    return {**asdict(found), "memory_bytes": limit, "predicted": predicted}


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, most in (("precision", 100.0), ("timeout", 86_400.0), ("memory", 2.0**20)):
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and 0 < value <= most):
            raise HwsearchError(f"--{name}: {value:g}; accepted: above 0, up to {most:,g}")
    if arguments.memory is not None and not arguments.largest_batch:
        raise HwsearchError("--memory is for --largest-batch")


def _memory_limit(arguments: argparse.Namespace, here: DeviceAtHand) -> int | None:
    """Bytes; None for all that a GPU has."""
    if arguments.memory is not None:
        return int(arguments.memory * 2**30)
    if here.device == CUDA:
        return None
    if (free := free_bytes()) is None:
        raise HwsearchError("--largest-batch: this system does not tell its free memory; say it by --memory")
    return int(SHARE_OF_FREE * free)
