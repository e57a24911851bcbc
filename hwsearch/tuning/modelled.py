"""Tiles for a GPU that is not here: compiled for it, and ranked by the pipeline model.

1. Every configuration of the space is priced by its shape (`estimated_code`); for each problem the best are
   compiled for the GPU's architecture, the untuned default always.
2. What does not compile, does not fit an SM or has a stack (spills) is dropped; configurations with the same
   machine code are one, the first of them.
3. The rest is priced by `hwsearch.cost.attention_pipeline` from what the machine code issues. The winner must
   be faster than the default by GUARD, else the default stays.

The kernels of a backward pass add up, so that their pairs cost no more compilations. Nothing here was
measured: rows say "modelled", and a measured row of the same key goes before them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.cost.attention_pipeline import (
    METHOD,
    Calls,
    KernelCode,
    kernel_time,
    moving_seconds,
)
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.triton_attention.configs import Tile
from hwsearch.kernels.triton_attention.instructions import Instructions
from hwsearch.kernels.triton_attention.space import KERNELS, default_config, space_of, trimmed
from hwsearch.kernels.tuned import Row
from hwsearch.tuning.compiled_codes import CodeFile, Job, compile_jobs, triton_version
from hwsearch.tuning.estimated_code import MOST_REGISTERS, estimated_code
from hwsearch.tuning.kernel import NothingRuns
from hwsearch.tuning.problems import Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.t4_file import Evaluation
from hwsearch.tuning.table_file import ALTERNATIVES

# The model is not trusted with less: its best is 0.90 to 1.29 of what people chose by hand for other kernels
# (results/modelled_ranking.md, a spread of some 12 %), and it has never been checked on a GPU.
GUARD = 1.15
# Of compiled code, in the cache.
FILE = "attention.jsonl"
# What is not compiled: a configuration estimated so much slower than the best.
HOPELESS = 1.6
# Estimated registers beyond what a thread has that the compiler may yet find: twice the estimate's error.
DOUBT = 40
# Each further depth of the pipeline of one shape counts as so much slower when it is chosen what to compile.
SAME_SHAPE = 1.04

Config = Mapping[str, Any]


def tune_modelled(
    gpu: Gpu,
    problems: Sequence[Problem],
    *,
    compilations: int,
    workers: int,
    cache: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Row]:
    """A row for each of `problems`, in order: `compile_promising`, then `modelled_row`."""
    compile_promising(gpu, problems, compilations=compilations, workers=workers, cache=cache, report=report)
    codes = CodeFile(cache / FILE)
    return [modelled_row(gpu, problem, codes) for problem in problems]


def compile_promising(
    gpu: Gpu,
    problems: Sequence[Problem],
    *,
    compilations: int,
    workers: int,
    cache: Path,
    report: Callable[[Progress], None],
) -> None:
    """Compile for `problems` (attention_forward and attention_backward alone) what promises most.

    At most `compilations` kernels are compiled a problem, those of the default whatever their number, in
    `workers` processes; those in the folder `cache` are not compiled again, whatever the length or the GPU
    that they were compiled for before. Raises HwsearchError for other kernels and a GPU older than compute
    capability 8.0. What is done when Ctrl-C comes is kept.
    """
    for problem in problems:
        _check(gpu, problem)
    codes = CodeFile(cache / FILE)
    wanted = [_promising(gpu, problem, compilations) for problem in problems]
    # The most promising of every problem first, so that a run that is stopped has something for each.
    jobs = [job for column in zip_longest(*wanted) for job in column if job is not None]
    _compile(jobs, codes, workers, report)


def modelled_search(gpu: Gpu, problem: Problem, cache: Path) -> list[Evaluation]:
    """What of `problem` was compiled: the default, then all others by their modelled time."""
    codes = CodeFile(cache / FILE)
    default = default_config(problem.kernel, *_call(gpu, problem))
    prices = _prices(gpu, problem, lambda job: runnable_code(codes, job))
    seconds = prices.pop(tuple(default.items()), None)
    first = Evaluation(default, seconds, "compile" if seconds is None else None)
    return [first, *(Evaluation(config, s) for config, s in _distinct(gpu, problem, codes, prices))]


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
    done, failures = 0, 0

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
            )
        )

    compile_jobs(missing, codes, workers, one_more)


def _promising(gpu: Gpu, problem: Problem, compilations: int) -> list[Job]:
    """The default's kernels, then those of the space by the best estimate of a configuration with them."""

    def estimated(job: Job) -> KernelCode | None:
        code = estimated_code(
            job.kernel, job.capability, job.dtype, job.head_size, job.tile, job.local, job.rope
        )
        if code.registers > MOST_REGISTERS + DOUBT:
            return None
        return replace(code, registers=min(code.registers, MOST_REGISTERS))

    best: dict[Job, float] = {}
    for config, seconds in _prices(gpu, problem, estimated).items():
        for job in jobs_of(problem, gpu.compute_capability, dict(config)):
            best[job] = min(seconds, best.get(job, seconds))
    # What differs in its stages alone differs least, and can wait.
    shapes: dict[Job, int] = {}
    later = {}
    for job in sorted(best, key=lambda job: best[job]):
        shape = replace(job, tile=replace(job.tile, stages=0))
        shapes[shape] = shapes.get(shape, 0) + 1
        later[job] = best[job] * SAME_SHAPE ** (shapes[shape] - 1)
    ranked = sorted(later, key=lambda job: later[job])
    parts: dict[str, list[Job]] = {}
    for job in ranked:
        if best[job] <= HOPELESS * best[ranked[0]]:
            parts.setdefault(job.kernel, []).append(job)
    default = default_config(problem.kernel, *_call(gpu, problem))
    jobs = jobs_of(problem, gpu.compute_capability, default)
    compilations = max(compilations, len(jobs))  # half of a default is none
    jobs += [job for column in zip_longest(*parts.values()) for job in column if job is not None]
    return list(dict.fromkeys(jobs))[:compilations]


def _prices(
    gpu: Gpu, problem: Problem, code_of: Callable[[Job], KernelCode | None]
) -> dict[tuple[tuple[str, Any], ...], float]:
    """Time of one call with each configuration of the space whose kernels have code and fit an SM."""
    calls, dtype, size = calls_of(problem), problem.key.dtype, problem.key.head_size
    kernels: dict[Job, float] = {}
    rotation, delta = (moving_seconds(gpu, dtype, kernel, calls, size) for kernel in ("rotate", "delta"))
    found = {}
    for config in space_of(problem.kernel, *_call(gpu, problem)):
        jobs = jobs_of(problem, gpu.compute_capability, config)
        for job in jobs:
            if job not in kernels:
                code = code_of(job)
                kernels[job] = np.inf if code is None else kernel_time(gpu, dtype, code, calls).seconds
        seconds = sum(kernels[job] for job in jobs)
        if config["rotate"] == "scratch":  # keys forward, queries too backward
            seconds += rotation * (1 if problem.kernel == "attention_forward" else 2)
        if len(jobs) > 1:
            seconds += delta
        if np.isfinite(seconds):
            found[tuple(config.items())] = seconds
    return found


def _call(gpu: Gpu, problem: Problem) -> tuple[tuple[int, int], str, int, int | None, int]:
    """What `space_of` asks. The configuration must serve all of its class, however short the workload."""
    key = problem.key
    longest = max(key.length, problem.workload.padded_length)
    return gpu.compute_capability, key.dtype, key.head_size, problem.window, longest


def modelled_row(gpu: Gpu, problem: Problem, codes: CodeFile) -> Row:
    """The best of what was compiled for `problem`; NothingRuns where nothing was that fits and spills not."""
    default = default_config(problem.kernel, *_call(gpu, problem))
    prices = _prices(gpu, problem, lambda job: runnable_code(codes, job))
    default_s = prices.get(tuple(default.items()), np.inf)
    ranked = _distinct(gpu, problem, codes, prices)
    if not ranked:
        why = _why_not(problem, gpu, codes, default)
        raise NothingRuns(f"{problem}: nothing compiles for {gpu.name}; the default: {why}")
    best, seconds = ranked[0]
    if seconds * GUARD > default_s:
        best, seconds = default, default_s
    others = [(trimmed(config), _short(s)) for config, s in ranked if config != best]
    return Row(
        key=problem.key,
        source="modelled",
        config=trimmed(best),
        seconds=_short(seconds),
        default_seconds=_short(default_s) if np.isfinite(default_s) else None,
        alternatives=tuple(others[:ALTERNATIVES]),
        workload=problem.workload.spec,
        heads=problem.heads,
        spread=None,
        joules=None,
        triton=triton_version(),
        torch=None,
        driver=None,
        date=datetime.date.today().isoformat(),
        method=METHOD,
    )


def _distinct(
    gpu: Gpu, problem: Problem, codes: CodeFile, prices: Mapping[tuple[tuple[str, Any], ...], float]
) -> list[tuple[Config, float]]:
    """Configurations, fastest first; of those with the same machine code the first in the space."""
    found: dict[tuple[str, ...], tuple[Config, float]] = {}
    for items, seconds in prices.items():
        config = dict(items)
        jobs = jobs_of(problem, gpu.compute_capability, config)
        code = (config["rotate"], *(_same_code(codes, job) for job in jobs))
        found.setdefault(code, (config, seconds))
    return sorted(found.values(), key=lambda each: each[1])


def runnable_code(codes: CodeFile, job: Job, *, spilling: bool = False) -> KernelCode | None:
    """The compiled kernel; None where it was not compiled, failed, does not fit, or spills unless allowed."""
    record = codes.found.get(job)
    if record is None or "error" in record or not record["blocks_per_sm"]:
        return None
    if record["stack_bytes"] and not spilling:
        return None
    tile = job.tile
    return KernelCode(
        kernel=job.kernel,
        rows=tile.rows,
        columns=tile.columns,
        warps=tile.warps,
        stages=tile.stages,
        head_size=job.head_size,
        registers=record["registers"],
        shared_bytes=record["shared_bytes"],
        tensor_memory_columns=record["tensor_memory_columns"],
        instructions=Instructions.from_dict(record["instructions"]),
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
