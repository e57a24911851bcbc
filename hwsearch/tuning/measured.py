"""Measured tuning: a problem, tuned on the device at hand, as a row of its table."""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.detect import detect
from hwsearch.gpu.profile import CPU
from hwsearch.kernels.triton_attention.space import trimmed
from hwsearch.kernels.tuned import KERNELS, Row, tuned_for
from hwsearch.tuning.attention import AttentionKernel, is_interpreted
from hwsearch.tuning.campaign import Interrupted, tune_kernel
from hwsearch.tuning.final_race import FINALISTS, LIMITS, OBJECTIVES, Limits, Objective, Tuned
from hwsearch.tuning.kernel import Config
from hwsearch.tuning.problems import TILES, Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.workshop import Workshop

# Changes whenever times come about in another way, so that old trials are not compared with new ones.
METHOD_VERSION = 1


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C while tuning. `row` is the best so far, checked and raced; None where there is none yet."""

    def __init__(self, row: Row | None) -> None:
        super().__init__()
        self.row = row


def tune_measured(
    problem: Problem,
    *,
    trials: int,
    seconds: float,
    objective: Objective,
    workers: int,
    folder: Path,
    report: Callable[[Progress], None],
    workshop: Workshop | None = None,
    limits: Limits = LIMITS,
) -> Row:
    """Tune until `trials` have ended in total or `seconds` of this call are over, whichever comes first.

    The study lies in folder/<kernel>-<dtype>-<head size>-<window>-<length>.log; a later call goes on from it,
    however the earlier one ended.

    Args:
        objective: "time"; "energy": joules of one run; "both": the fastest, with the Pareto front as its
            alternatives.
        workers: processes that compile ahead of the device; 0 compiles where it is measured.
        workshop: these processes, kept from one call to the next; None starts some for this call alone.

    Raises HwsearchError for a GPU that is not in this machine, a kernel that does not run there and a study
    that another process holds; TuningInterrupted after Ctrl-C.
    """
    if trials < 1 or not 0 < seconds < math.inf or workers < 0:
        raise HwsearchError(
            f"found {trials} trials, {seconds:g} seconds, {workers} workers; accepted: 1 trial or more, a"
            " positive number of seconds, 0 workers or more"
        )
    if objective not in OBJECTIVES:
        raise HwsearchError(f"objective: found {objective!r}; accepted: {', '.join(OBJECTIVES)}")
    kernel = kernel_of(problem)
    if objective != "time" and kernel.device == "cpu":
        raise HwsearchError(
            f"objective {objective}: a CPU has no energy counter that hwsearch reads; accepted: time"
        )
    key = problem.key
    with ExitStack() as held:
        try:
            tuned = tune_kernel(
                kernel,
                f"{problem.kernel}-{key.dtype}-{key.head_size}-{key.window}-{key.length}",
                {"kernel": asdict(kernel), "method": METHOD_VERSION, **_versions()},
                trials=trials,
                seconds=seconds,
                objective=objective,
                workshop=workshop or held.enter_context(Workshop(workers)),
                folder=folder,
                report=report,
                warn=lambda message: warnings.warn(message, stacklevel=2),
                first=recommended(problem, kernel),
                limits=limits,
            )
        except Interrupted as stopped:
            row = None if stopped.tuned is None else row_of(problem, kernel, stopped.tuned, objective)
            raise TuningInterrupted(row) from None
    return row_of(problem, kernel, tuned, objective)


def kernel_of(problem: Problem) -> AttentionKernel:
    """The kernel on the device at hand. Raises HwsearchError where it cannot run there."""
    gpu, key = problem.gpu, problem.key
    if problem.kernel not in KERNELS:
        raise HwsearchError(f"kernel: found {problem.kernel!r}; accepted: {', '.join(KERNELS)}")
    if find_spec("torch") is None:
        raise HwsearchError(
            'measured tuning runs kernels, and torch is not installed: pip install "hwsearch[train]"'
        )
    on_cpu = gpu.name == CPU
    if on_cpu and problem.kernel in TILES and not is_interpreted():
        raise HwsearchError(
            f"{problem.kernel}: Triton's kernels run on a CPU only under TRITON_INTERPRET=1, as a test whose"
            " times mean nothing; accepted here: attention_backend, attention_backend_training"
        )
    if not on_cpu:
        found = detect()
        if all(each.gpu is None or each.gpu.name != gpu.name for each in found):
            here = ", ".join(each.nvml_name for each in found)
            raise HwsearchError(f"{gpu.name} is not in this machine, which has {here}: nothing to measure on")
        gpu.check_dtype(key.dtype)
    kernel = AttentionKernel(
        problem.kernel,
        key.dtype,
        key.head_size,
        problem.heads,
        problem.window,
        problem.workload.lengths,
        max(key.length, *problem.workload.lengths),
        CPU if on_cpu else "cuda",
        None if on_cpu else gpu.compute_capability,
        () if on_cpu else gpu.nvml_names,
    )
    try:
        kernel.configurations()
    except ValueError as error:
        raise HwsearchError(f"{problem.kernel} on {gpu.name}: {error}") from error
    return kernel


def recommended(problem: Problem, kernel: AttentionKernel) -> list[Config]:
    """What the tables have for these calls: modelled, of another GPU or length, or measured before."""
    row = tuned_for(problem.kernel, problem.gpu.name, kernel.capability, problem.key).row
    if row is None:
        return []
    wanted = [row.config, *(config for config, _ in row.alternatives)]
    whole = {frozenset(trimmed(config).items()): config for config in kernel.configurations()}
    found = (whole.get(frozenset(config.items())) for config in wanted)
    return [config for config in found if config is not None]


def row_of(problem: Problem, kernel: AttentionKernel, tuned: Tuned, objective: Objective) -> Row:
    versions = _versions()
    on_cpu = kernel.device == CPU
    clock = "wall clock" if on_cpu else "CUDA events, cold L2"
    goal = "" if objective == "time" else f" for {objective}"
    disturbed = "" if tuned.taint is None else f"; disturbed: {tuned.taint}"
    return Row(
        key=problem.key,
        source="measured",
        config=trimmed(tuned.config),
        seconds=tuned.seconds,
        default_seconds=tuned.default_seconds,
        alternatives=tuple((trimmed(config), seconds) for config, seconds in tuned.alternatives),
        workload=problem.workload.spec,
        heads=problem.heads,
        spread=tuned.spread,
        joules=tuned.joules,
        triton=None if on_cpu else versions["triton"],
        torch=versions["torch"],
        driver=None if on_cpu else versions["driver"],
        date=datetime.date.today().isoformat(),
        method=f"{tuned.trials} trials{goal}, {clock}, raced in turn, last race of {FINALISTS}{disturbed}",
    )


def _versions() -> dict[str, str | None]:
    return {"torch": _version("torch"), "triton": _version("triton"), "driver": _driver()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        found = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # no driver, no library
        return None
    return found.decode() if isinstance(found, bytes) else str(found)
