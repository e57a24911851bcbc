"""Tunes one problem after another, and keeps every answer in its table as soon as it is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.tuned import Row, table_path
from hwsearch.tuning.final_race import Objective
from hwsearch.tuning.kernel import NothingRuns
from hwsearch.tuning.problems import Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.search_log import journal_path, read_search
from hwsearch.tuning.t4_file import Evaluation, export_t4, kept, t4_path
from hwsearch.tuning.table_file import header_of, merge_rows, require_mergeable
from hwsearch.tuning.tables import Placed

COMPILED = "compiled"
# What is tuned, and how far it is.
Report = Callable[[str, Progress], None]
Keep = Callable[[Problem, Row], None]
Fail = Callable[[NothingRuns], None]


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

    `work` keeps the studies and what was compiled: what is complete there answers at once. A problem that
    nothing runs of is warned of and left out. Raises HwsearchError where that is all of them, where another
    process tunes the same problem, and, before anything is tuned, where a table cannot be written; after
    Ctrl-C the tables hold the best so far.
    """
    for kernel in dict.fromkeys(problem.kernel for problem in asked):
        require_mergeable(table_path(tables, gpu.name, kernel), header_of(kernel, gpu))
    placed: list[Placed] = []
    failed: list[NothingRuns] = []

    def keep(problem: Problem, row: Row) -> None:
        header, path = header_of(problem.kernel, gpu), table_path(tables, gpu.name, problem.kernel)
        merge_rows(path, header, [row])
        placed.append(Placed(header, row, path))

    if here:
        _measure(asked, effort, work, report, keep, failed.append)
    else:
        _model(gpu, asked, effort, work, report, keep, failed.append)
    if not placed and failed:
        raise failed[0]
    for error in failed:
        warnings.warn(f"left out: {error}", stacklevel=2)
    return placed


def searches(
    gpu: Gpu, asked: Sequence[Problem], placed: Sequence[Placed], work: Path, here: bool
) -> list[tuple[Placed, list[Evaluation]]]:
    """With each row that `tune` returned what was looked at to find it, the default first."""
    if here:
        paths = (journal_path(work, gpu.name, each.table.kernel, each.row.key) for each in placed)
        return [(each, read_search(path)) for each, path in zip(placed, paths, strict=True)]
    from hwsearch.tuning.modelled import modelled_search

    by_row = {(problem.kernel, problem.key): problem for problem in asked}
    found = (by_row[each.table.kernel, each.row.key] for each in placed)
    return [
        (each, modelled_search(gpu, problem, work / COMPILED))
        for each, problem in zip(placed, found, strict=True)
    ]


def export(folder: Path, placed: Sequence[Placed], work: Path) -> list[Path]:
    """A T4 file for each row: all that was measured to find it where the journal is in `work`, else the best
    few that the table keeps."""
    paths = []
    for each in placed:
        journal = journal_path(work, each.table.gpu, each.table.kernel, each.row.key)
        whole = each.row.source == "measured" and journal.is_file()
        looked_at = read_search(journal) if whole else kept(each.row)
        paths.append(t4_path(folder, each.table, each.row))
        export_t4(paths[-1], each.table.kernel, each.table.gpu, each.row, looked_at)
    return paths


def _measure(
    asked: Sequence[Problem], effort: Effort, work: Path, report: Report, keep: Keep, fail: Fail
) -> None:
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
            except NothingRuns as error:
                fail(NothingRuns(f"{problem}: {error}"))
            else:
                keep(problem, row)


def _model(
    gpu: Gpu, asked: Sequence[Problem], effort: Effort, work: Path, report: Report, keep: Keep, fail: Fail
) -> None:
    from hwsearch.tuning.compiled_codes import CodeFile
    from hwsearch.tuning.modelled import FILE, compile_promising, modelled_row

    if effort.objective != "time":
        raise HwsearchError(f"--objective {effort.objective} is measured, and {gpu.name} is not here")
    stopped: KeyboardInterrupt | None = None
    try:
        compile_promising(
            gpu,
            asked,
            compilations=effort.trials,
            workers=effort.workers,
            cache=work / COMPILED,
            report=partial(report, f"compiling for {gpu.name}"),
        )
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
    codes = CodeFile(work / COMPILED / FILE)
    for problem in asked:
        try:
            row = modelled_row(gpu, problem, codes)
        except NothingRuns as error:
            fail(error)
        else:
            keep(problem, row)
    if stopped is not None:
        raise stopped
