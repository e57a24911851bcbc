"""Tunes one problem after another, and keeps every answer in its table as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.tuned import Row, table_path
from hwsearch.tuning.problems import TILES, Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import header_of, merge_rows
from hwsearch.tuning.tables import Placed

Report = Callable[[Progress], None]


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
    objective: str
    workers: int


def tune(
    gpu: Gpu, asked: Sequence[Problem], effort: Effort, tables: Path, work: Path, here: bool, report: Report
) -> list[Placed]:
    """Measure where `gpu` is `here`, else compile and model; merge the rows into the tables below `tables`.

    `work` keeps the studies and what was compiled: what is complete there answers at once. Raises
    HwsearchError where another process tunes the same problem, or a table cannot be written.
    """
    answers = _measured(asked, effort, work, report) if here else _modelled(gpu, asked, effort, work, report)
    placed = []
    for problem, row in answers:
        header, path = header_of(problem.kernel, gpu), table_path(tables, gpu.name, problem.kernel)
        merge_rows(path, header, [row])
        placed.append(Placed(header, row, path))
    return placed


def _measured(
    asked: Sequence[Problem], effort: Effort, work: Path, report: Report
) -> Iterator[tuple[Problem, Row]]:
    from hwsearch.tuning.measured import tune_measured

    for problem in asked:
        yield (
            problem,
            tune_measured(
                problem,
                trials=effort.trials,
                seconds=effort.seconds,
                objective=effort.objective,
                workers=effort.workers,
                folder=work / problem.gpu.name,
                report=report,
            ),
        )


def _modelled(
    gpu: Gpu, asked: Sequence[Problem], effort: Effort, work: Path, report: Report
) -> Iterator[tuple[Problem, Row]]:
    from hwsearch.tuning.modelled import tune_modelled

    if effort.objective != "time":
        raise HwsearchError(f"--objective: {effort.objective} is measured, and {gpu.name} is not here")
    tiles = [problem for problem in asked if problem.kernel in TILES]
    rows = tune_modelled(
        gpu, tiles, compilations=effort.trials, workers=effort.workers, cache=work / "compiled", report=report
    )
    yield from zip(tiles, rows, strict=True)
