"""Tunes one problem after another and keeps every answer in its table as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.tuned import Row, Table
from hwsearch.tuning.problems import TILES, Problem
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.table_file import merge_rows

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


def measure_all(
    found: Sequence[Problem], effort: Effort, tables: Path, studies: Path, report: Report
) -> Iterator[tuple[Problem, Row]]:
    """Measure on the device at hand; a problem whose study is complete answers at once.

    Raises HwsearchError where another process tunes the same problem, or a table cannot be written.
    """
    from hwsearch.tuning.measured import tune_measured

    for problem in found:
        row = tune_measured(
            problem,
            trials=effort.trials,
            seconds=effort.seconds,
            objective=effort.objective,
            workers=effort.workers,
            folder=studies / problem.gpu.name,
            report=report,
        )
        keep(tables, problem.gpu, problem.kernel, [row])
        yield problem, row


def model_all(
    gpu: Gpu, found: Sequence[Problem], effort: Effort, tables: Path, cache: Path, report: Report
) -> Iterator[tuple[Problem, Row]]:
    """Compile for `gpu`, which need not be here, and rank by the pipeline model."""
    from hwsearch.tuning.modelled import tune_modelled

    tiles = [problem for problem in found if problem.kernel in TILES]
    rows = tune_modelled(
        gpu, tiles, compilations=effort.trials, workers=effort.workers, cache=cache, report=report
    )
    for kernel in dict.fromkeys(problem.kernel for problem in tiles):
        own = [row for problem, row in zip(tiles, rows, strict=True) if problem.kernel == kernel]
        keep(tables, gpu, kernel, own)
    yield from zip(tiles, rows, strict=True)


def keep(tables: Path, gpu: Gpu, kernel: str, rows: Sequence[Row]) -> None:
    """Merge `rows` into the table of `gpu` and `kernel`."""
    header = Table(kernel, gpu.name, gpu.nvml_names, gpu.compute_capability, gpu.sms, ())
    merge_rows(tables / gpu.name / f"{kernel}.json", header, rows)
