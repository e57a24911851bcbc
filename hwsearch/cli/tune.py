"""hwsearch tune"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before numpy is loaded: the tuner's matrices are small, and their threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hwsearch.cli import tune_replay, tune_tables
from hwsearch.cli.progress import tuning_progress
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import detect
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.tuned import LENGTHS, cache_folder, own_folder
from hwsearch.report.tuned import model_lines, placed_json, placed_table
from hwsearch.report.tuning_page import write_tuning_page
from hwsearch.space.search_space import load_space
from hwsearch.tuning.problems import (
    Problem,
    Wanted,
    everything,
    kernels_named,
    of_space,
    problems,
    tunable,
)
from hwsearch.tuning.run import Effort, searches, tune
from hwsearch.tuning.tables import Placed
from hwsearch.workload import parse_workload

HEAD_SIZE = 64


def main(arguments: argparse.Namespace) -> None:
    if arguments.replay:
        tune_replay.main(arguments)
    elif arguments.show:
        tune_tables.show(arguments)
    elif arguments.export:
        tune_tables.export_rows(arguments)
    elif arguments.import_file:
        tune_tables.import_row(arguments)
    else:
        for option in ("t1", "budget_seconds", "seeds", "trace"):
            if getattr(arguments, option) is not None:
                raise HwsearchError(f"--{option.replace('_', '-')}: belongs to --replay")
        _tune(arguments)


def _tune(arguments: argparse.Namespace) -> None:
    if not (arguments.kernel or arguments.all or arguments.space):
        raise HwsearchError("tune: nothing is asked for; accepted: a KERNEL, --all, --space FILE or --show")
    kernels = kernels_named(arguments.kernel or ["attention"])
    effort = _effort(arguments)
    tables = Path(arguments.out) if arguments.out else own_folder()
    work, here = cache_folder() / "tuning", _at_hand()
    answers: list[Placed] = []
    for gpu, asked in _plans(arguments, kernels, here):
        is_here = gpu.name in here
        how = "measured on this machine" if is_here else "compiled and modelled: it is not here"
        print(f"{gpu.name}: {len(asked)} to tune, {how}", file=sys.stderr)
        with tuning_progress() as report:
            found = tune(gpu, asked, effort, tables, work, is_here, report)
        page = work / f"{gpu.name}.html"
        looked_at = searches(gpu, asked, found, work, is_here)
        write_tuning_page(page, looked_at)
        print("\n".join([*model_lines(looked_at), ""]), end="", file=sys.stderr)
        print(f"{gpu.name}: what was looked at: {page}", file=sys.stderr)
        answers += found
    print(placed_json(answers) if arguments.json else placed_table(answers))


def _plans(
    arguments: argparse.Namespace, kernels: tuple[str, ...], here: dict[str, Gpu]
) -> list[tuple[Gpu, list[Problem]]]:
    """All that is asked for, before anything is tuned; of a basket what can be tuned."""
    gpus, plans = _gpus(arguments, here), []
    for gpu in gpus:
        try:
            own = tunable(gpu, kernels, gpu.name in here)
        except HwsearchError as error:
            if len(gpus) == 1:
                raise
            print(f"hwsearch: warning: left out: {error}", file=sys.stderr)
        else:
            plans.append((gpu, problems(gpu, own, _wanted(arguments, gpu))))
    return plans


def _gpus(arguments: argparse.Namespace, here: dict[str, Gpu]) -> list[Gpu]:
    if arguments.gpu:
        return [here.get(arguments.gpu) or load_gpu(arguments.gpu)]
    if arguments.space:
        return list(load_space(arguments.space).gpus)
    return list(here.values())[:1]


def _at_hand() -> dict[str, Gpu]:
    """Profiles of the devices here, by name, the CPU last."""
    found = [each.gpu for each in detect() if each.gpu is not None]
    return {gpu.name: gpu for gpu in [*found, load_gpu(CPU)]}


def _wanted(arguments: argparse.Namespace, gpu: Gpu) -> Wanted:
    if arguments.space:
        default = of_space(load_space(arguments.space), gpu)
    elif arguments.all:
        default = everything(gpu)
    else:
        default = Wanted((gpu.default_dtype,), (HEAD_SIZE,), ("global", "narrow"), LENGTHS)
    return Wanted(
        (arguments.dtype,) if arguments.dtype else default.dtypes,
        _numbers(arguments.head_size, "--head-size") or default.head_sizes,
        tuple(arguments.window.split(",")) if arguments.window else default.windows,
        _numbers(arguments.length, "--length") or default.lengths,
        arguments.heads,
        parse_workload(arguments.workload) if arguments.workload else None,
    )


def _effort(arguments: argparse.Namespace) -> Effort:
    for option, value in (("--trials", arguments.trials), ("--workers", arguments.workers)):
        if value is not None and value < 1:
            raise HwsearchError(f"{option}: found {value}; accepted: 1 or more")
    if not 0 < arguments.seconds < float("inf"):
        raise HwsearchError(f"--seconds: found {arguments.seconds}; accepted: a positive number")
    workers = arguments.workers or max(1, (os.cpu_count() or 1) - 1)
    return Effort(arguments.trials, arguments.seconds, arguments.objective, workers)


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise HwsearchError(f"{option}: found {text!r}; accepted: whole numbers joined by commas") from None
