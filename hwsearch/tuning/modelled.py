"""Tiles for a GPU that is not here: compiled for it, and ranked by the pipeline model.

1. Every configuration of the space is priced by its shape (`estimated_code`); for each problem the best are
   compiled for the GPU's architecture, the untuned default always.
2. What does not compile, does not fit an SM or has a stack (spills) is dropped; configurations with the same
   machine code are one, the first of them.
3. The rest is priced by `hwsearch.cost.attention_pipeline` from what the machine code issues. The winner must
   be faster than the default by GUARD, else the default stays.

The two kernels of a backward pass add up, so that each is ranked by itself and only the best are paired.
Nothing here was measured: rows say "modelled", and a measured row of the same key goes before them.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.cost.attention_pipeline import (
    METHOD,
    Calls,
    KernelCode,
    backward_seconds,
    forward_seconds,
    kernel_time,
)
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.kernels.triton_attention.instructions import Instructions
from hwsearch.kernels.triton_attention.space import KERNELS, default_config, space_of, trimmed
from hwsearch.kernels.tuned import Row
from hwsearch.tuning.compiled_codes import CodeFile, Job, compile_jobs, triton_version
from hwsearch.tuning.estimated_code import MOST_REGISTERS, estimated_code
from hwsearch.tuning.problems import Problem
from hwsearch.tuning.progress import Progress

# The model is not trusted with less: the default has been read by people, the model never checked on a GPU.
GUARD = 1.05
ALTERNATIVES = 4
# Of each backward kernel, how many of the best are paired with those of the other.
PAIRED = 6

Config = Mapping[str, Any]


@dataclass(frozen=True)
class _Priced:
    config: Config
    seconds: float


def tune_modelled(
    gpu: Gpu,
    problems: Sequence[Problem],
    *,
    compilations: int,
    workers: int,
    cache: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Row]:
    """A row for each of `problems` (attention_forward and attention_backward alone), in order.

    At most `compilations` kernels are compiled a problem, in `workers` processes; those in the folder `cache`
    are not compiled again, whatever the length or the GPU that they were compiled for before. Raises
    HwsearchError for other kernels, a GPU older than compute capability 8.0, a default that does not compile.
    """
    for problem in problems:
        _check(gpu, problem)
    codes = CodeFile(cache / "attention.jsonl")
    wanted = [_promising(gpu, problem, compilations) for problem in problems]
    # The most promising of every problem first, so that a run that is stopped has something for each.
    jobs = [job for column in zip_longest(*wanted) for job in column if job is not None]
    _compile(jobs, codes, workers, report)
    return [_row(gpu, problem, codes) for problem in problems]


def jobs_of(problem: Problem, capability: tuple[int, int], config: Config) -> list[Job]:
    """The Triton kernels that a configuration runs, delta and rotation aside."""
    key = problem.key
    local = key.window != "global"

    def job(kernel: str, tile: Tile) -> Job:
        return Job(capability, kernel, key.dtype, key.head_size, tile, local, config["rotate"])

    if problem.kernel == "attention_forward":
        return [job("forward", _tile(config))]
    if config["one_pass"]:
        rows = config["rows"]
        return [job("short", Tile(rows, rows, config["warps"], config["stages"], split=False))]
    return [job("dq", _tile(config, "dq_")), job("dkdv", _tile(config, "dkdv_"))]


def _compile(jobs: Iterable[Job], codes: CodeFile, workers: int, report: Callable[[Progress], None]) -> None:
    missing = [job for job in dict.fromkeys(jobs) if job not in codes.found]
    begin, done, failures = time.monotonic(), 0, 0

    def one_more(job: Job, code: Mapping[str, Any]) -> None:
        nonlocal done, failures
        done += 1
        failures += "error" in code
        config = {"kernel": job.kernel, "rotate": job.rope, **asdict(job.tile)}
        state, reason = ("failed", str(code["error"])) if "error" in code else ("compiling", "")
        report(
            Progress(
                state,
                done,
                len(missing),
                config,
                None,
                reason,
                None,
                None,
                None,
                failures,
                time.monotonic() - begin,
                float("inf"),
            )
        )

    compile_jobs(missing, codes, workers, one_more)


def _promising(gpu: Gpu, problem: Problem, compilations: int) -> list[Job]:
    """The default's kernels, then those of the space by their estimated time."""
    call = (gpu.compute_capability, problem.key.dtype, problem.key.head_size)
    longest = problem.workload.padded_length
    default = default_config(problem.kernel, *call, problem.window, longest)
    jobs = jobs_of(problem, gpu.compute_capability, default)
    seconds: dict[Job, float] = {}
    for config in space_of(problem.kernel, *call, problem.window, longest):
        for job in jobs_of(problem, gpu.compute_capability, config):
            if job not in seconds:
                seconds[job] = _estimated_seconds(gpu, problem, job)
    ranked = sorted(seconds, key=lambda job: seconds[job])
    parts: dict[str, list[Job]] = {}
    for job in ranked:
        if np.isfinite(seconds[job]):
            parts.setdefault(job.kernel, []).append(job)
    mixed = (job for column in zip_longest(*parts.values()) for job in column if job is not None)
    return list(dict.fromkeys([*jobs, *mixed]))[:compilations]


def _estimated_seconds(gpu: Gpu, problem: Problem, job: Job) -> float:
    code = estimated_code(job.kernel, job.capability, job.dtype, job.head_size, job.tile, job.local)
    if code.registers > MOST_REGISTERS:
        return float("inf")
    calls = calls_of(problem)
    beforehand = forward_seconds if job.kernel == "forward" else _with_rotation
    return beforehand(gpu, job.dtype, code, calls, job.rope)


def _with_rotation(gpu: Gpu, dtype: str, code: KernelCode, calls: Calls, rotate: str) -> float:
    return backward_seconds(gpu, dtype, [code], calls, rotate)


def _row(gpu: Gpu, problem: Problem, codes: CodeFile) -> Row:
    call = (gpu.compute_capability, problem.key.dtype, problem.key.head_size)
    longest = problem.workload.padded_length
    default = default_config(problem.kernel, *call, problem.window, longest)
    default_s = _seconds(gpu, problem, codes, default)
    ranked = _ranked(gpu, problem, codes)
    if not ranked and not np.isfinite(default_s):
        raise HwsearchError(
            f"{problem}: nothing compiles for {gpu.name}: {_why_not(problem, gpu, codes, default)}"
        )
    best = ranked[0] if ranked else _Priced(default, default_s)
    if best.seconds * GUARD > default_s:
        best = _Priced(default, default_s)
    others = [other for other in ranked if trimmed(other.config) != trimmed(best.config)]
    return Row(
        problem.key,
        "modelled",
        trimmed(best.config),
        _short(best.seconds),
        _short(default_s) if np.isfinite(default_s) else None,
        tuple((trimmed(other.config), _short(other.seconds)) for other in others[:ALTERNATIVES]),
        problem.workload.spec,
        problem.heads,
        None,
        None,
        triton_version(),
        None,
        None,
        datetime.date.today().isoformat(),
        METHOD,
    )


def _ranked(gpu: Gpu, problem: Problem, codes: CodeFile) -> list[_Priced]:
    """Compiled configurations of the space, fastest first, machine code for machine code."""
    call = (gpu.compute_capability, problem.key.dtype, problem.key.head_size)
    space = space_of(problem.kernel, *call, problem.window, problem.workload.padded_length)
    known = _kernel_seconds(gpu, problem, codes, space)
    best: dict[tuple[str, ...], _Priced] = {}
    for config in space:
        jobs = jobs_of(problem, gpu.compute_capability, config)
        if not all(job in known for job in jobs):
            continue
        code = (config["rotate"], *(_same_code(codes, job) for job in jobs))
        if code not in best:
            best[code] = _Priced(config, _seconds(gpu, problem, codes, config))
    return sorted(best.values(), key=lambda priced: priced.seconds)


def _kernel_seconds(gpu: Gpu, problem: Problem, codes: CodeFile, space: Sequence[Config]) -> dict[Job, float]:
    """Time of each kernel that can run, for backward kernels of pairs only the best of every kind."""
    calls = calls_of(problem)
    jobs = {job for config in space for job in jobs_of(problem, gpu.compute_capability, config)}
    seconds = {
        job: kernel_time(gpu, job.dtype, code, calls).seconds
        for job in jobs
        if (code := runnable_code(codes, job)) is not None
    }
    kinds: dict[tuple[str, str, bool], list[Job]] = {}
    for job in sorted(seconds, key=lambda job: (seconds[job], str(job))):
        if np.isfinite(seconds[job]):
            kinds.setdefault((job.kernel, job.rope, bool(job.tile.split)), []).append(job)
    return {
        job: seconds[job]
        for (kernel, *_), ranked in kinds.items()
        for job in (ranked[:PAIRED] if kernel in ("dq", "dkdv") else ranked)
    }


def _seconds(gpu: Gpu, problem: Problem, codes: CodeFile, config: Config) -> float:
    """Modelled time of one call; infinite where a kernel of it cannot run."""
    found = [runnable_code(codes, job) for job in jobs_of(problem, gpu.compute_capability, config)]
    kernels = [code for code in found if code is not None]
    if len(kernels) < len(found):
        return float("inf")
    calls, dtype = calls_of(problem), problem.key.dtype
    if problem.kernel == "attention_forward":
        return forward_seconds(gpu, dtype, kernels[0], calls, config["rotate"])
    return backward_seconds(gpu, dtype, kernels, calls, config["rotate"])


def runnable_code(codes: CodeFile, job: Job) -> KernelCode | None:
    """The compiled kernel; None where it was not compiled, failed, spills or does not fit."""
    record = codes.found.get(job)
    if record is None or "error" in record or record["stack_bytes"] or not record["blocks_per_sm"]:
        return None
    tile = job.tile
    taken = (record[name] for name in ("registers", "shared_bytes", "tensor_memory_columns"))
    issued = Instructions.from_dict(record["instructions"])
    return KernelCode(
        job.kernel, tile.rows, tile.columns, tile.warps, tile.stages, job.head_size, *taken, issued
    )


def _same_code(codes: CodeFile, job: Job) -> str:
    record = codes.found[job]
    return f"{record['digest']} {record['shared_bytes']} {job.tile.warps}"


def _why_not(problem: Problem, gpu: Gpu, codes: CodeFile, config: Config) -> str:
    for job in jobs_of(problem, gpu.compute_capability, config):
        record = codes.found.get(job, {"error": "not compiled"})
        if "error" in record:
            return str(record["error"])
    return "it spills or does not fit"


def calls_of(problem: Problem) -> Calls:
    lengths, counts = problem.workload.computed_lengths(unpads=True)
    return Calls(lengths, counts, -1 if problem.window is None else problem.window, problem.heads)


def _check(gpu: Gpu, problem: Problem) -> None:
    if problem.kernel not in KERNELS:
        raise HwsearchError(f"{problem.kernel} cannot be modelled; accepted: {', '.join(KERNELS)}")
    if gpu.compute_capability < (8, 0):
        major, minor = gpu.compute_capability
        raise HwsearchError(
            f"{gpu.name}: Triton uses tensor cores from compute capability 8.0, not on {major}.{minor}"
        )
    try:
        default_config(
            problem.kernel, gpu.compute_capability, problem.key.dtype, problem.key.head_size, None, 1
        )
    except ValueError as error:
        raise HwsearchError(f"{gpu.name}: {error}") from error


def _tile(config: Config, prefix: str = "") -> Tile:
    return Tile(*(config[prefix + name] for name in ("rows", "columns", "warps", "stages", "split")))


def _short(seconds: float) -> float:
    """Four digits: more would only make the table longer."""
    return float(f"{seconds:.4g}")
