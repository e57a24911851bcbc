"""Progress on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # of a command that need not be installed
    from hwsearch.tuning.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function to call with a stage, what of it is done, and the whole."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    stages: dict[str, TaskID] = {}
    with Bars(console=Console(stderr=True)) as bars:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield report


def _plain() -> Callable[[str, int, int], None]:
    last_stage, last_time = "", 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        if stage != last_stage or done == total or now - last_time >= SECONDS_BETWEEN_LINES:
            print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)
            last_stage, last_time = stage, now

    return report


@contextmanager
def tuning_progress() -> Iterator[Callable[[str, Progress], None]]:
    """Yields a function to call with what is tuned and how far it is."""
    if not sys.stderr.isatty():
        yield _plain_tuning()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[found]}", markup=False),
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(title: str, at: Progress) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=at.trials, found="")
            bars.update(tasks[title], completed=at.trial, total=at.trials, found=_found(at))

        yield report


def _plain_tuning() -> Callable[[str, Progress], None]:
    last_title, last_time = "", 0.0

    def report(title: str, at: Progress) -> None:
        nonlocal last_title, last_time
        now = time.monotonic()
        if title != last_title or at.trial == at.trials or now - last_time >= SECONDS_BETWEEN_LINES:
            print(f"{title} {at.trial}/{at.trials} {_found(at)}".rstrip(), file=sys.stderr, flush=True)
            last_title, last_time = title, now

    return report


def _found(at: Progress) -> str:
    """The best so far, beside the default, and how many failed."""
    parts = []
    if at.best_seconds is not None:
        gain = "" if at.default_seconds is None else f", {at.default_seconds / at.best_seconds:.2f}x default"
        parts.append(f"best {1e3 * at.best_seconds:.4g} ms{gain}")
    if at.failures:
        parts.append(f"{at.failures} failed")
    return "; ".join(parts)
