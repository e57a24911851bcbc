"""Tunes one problem after another, and keeps every answer in its table as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.tuned import Row, table_path
from hwsearch.tuning.final_race import Objective
from hwsearch.tuning.problems import Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import header_of, merge_rows
from hwsearch.tuning.tables import Placed

# What is tuned, and how far it is.
Report = Callable[[str, Progress], None]
Keep = Callable[[Problem, Row], None]


@dataclass(frozen=True)
class Effort:
    """What may be spent on each problem.

    Attributes:
        trials: configurations that are measured; where the GPU is elsewhere, compiled.
        seconds: of measuring; what is under way then is finished.
        objective: "time", "energy" or "both".
        workers: processes that compile.
    """

    trials: int
    seconds: float
    objective: Objective
    workers: int


def tune(
    gpu: Gpu, asked: Sequence[Problem], effort: Effort, tables: Path, work: Path, here: bool, report: Report
) -> list[Placed]:
    """Measure where `gpu` is `here`, else compile and model; merge the rows into the tables below `tables`.

    `work` keeps the studies and what was compiled: what is complete there answers at once. Raises
    HwsearchError where another process tunes the same problem, or a table cannot be written; after Ctrl-C
    the table holds the best so far.
    """
    placed = []

    def keep(problem: Problem, row: Row) -> None:
        header, path = header_of(problem.kernel, gpu), table_path(tables, gpu.name, problem.kernel)
        merge_rows(path, header, [row])
        placed.append(Placed(header, row, path))

    if here:
        _measure(asked, effort, work, report, keep)
    else:
        _model(gpu, asked, effort, work, report, keep)
    return placed


def _measure(asked: Sequence[Problem], effort: Effort, work: Path, report: Report, keep: Keep) -> None:
    from hwsearch.tuning.measured import TuningInterrupted, tune_measured
    from hwsearch.tuning.workshop import Workshop

    with Workshop(effort.workers) as workshop:
        for problem in asked:
            try:
                row = tune_measured(
                    problem,
                    trials=effort.trials,
                    seconds=effort.seconds,
                    objective=effort.objective,
                    workers=effort.workers,
                    folder=work / problem.gpu.name,
                    report=partial(report, str(problem)),
                    workshop=workshop,
                )
            except TuningInterrupted as stopped:
                if stopped.row is not None:
                    keep(problem, stopped.row)
                raise
            keep(problem, row)


def _model(
    gpu: Gpu, asked: Sequence[Problem], effort: Effort, work: Path, report: Report, keep: Keep
) -> None:
    from hwsearch.tuning.modelled import tune_modelled

    if effort.objective != "time":
        raise HwsearchError(f"--objective {effort.objective} is measured, and {gpu.name} is not here")
    rows = tune_modelled(
        gpu,
        asked,
        compilations=effort.trials,
        workers=effort.workers,
        cache=work / "compiled",
        report=partial(report, f"compiling for {gpu.name}"),
    )
    for problem, row in zip(asked, rows, strict=True):
        keep(problem, row)
