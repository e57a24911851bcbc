"""What a run says: metrics.jsonl, TensorBoard, and a bar or lines on the terminal."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsearch.errors import HwsearchError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class StepRecord:
    """One finished step.

    Attributes:
        step: of the whole run, from 1.
        loss: nats per hidden token.
        tokens: real ones, so far.
        tokens_per_second: real ones, of this step.
        flops_utilisation: the model's FLOPs (forward and backward) over what the device could do in that
            time; None where its rate is not known.
        seconds: of training, so far.
    """

    step: int
    phase: str
    loss: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    flops_utilisation: float | None
    seconds: float


class RunLog:
    """Writes every record to metrics.jsonl and TensorBoard, and says now and then how it goes.

    Use it by `open_log`.
    """

    def __init__(
        self,
        metrics: FileIO | None,
        board: SummaryWriter | None,
        bar: Progress | None,
        report: Callable[[str], None],
        steps: int,
    ) -> None:
        self._metrics, self._board, self._bar, self.report, self._steps = metrics, board, bar, report, steps
        self._task = bar.add_task("", total=steps, status="") if bar else None
        self._last_line = time.monotonic()

    @property
    def position(self) -> int:
        """Bytes of metrics.jsonl so far: a run that goes on from here writes after them."""
        return self._metrics.tell() if self._metrics else 0

    def write(self, **values: Any) -> None:
        """A line of metrics.jsonl. Raises HwsearchError for a full disk."""
        if self._metrics is None:
            return
        line = json.dumps(values).encode() + b"\n"
        try:
            if self._metrics.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise HwsearchError(f"{self._metrics.name}: cannot write: {error.strerror}") from error

    def step(self, record: StepRecord) -> None:
        self.write(kind="step", **asdict(record))
        if self._board:
            for name in ("loss", "learning_rate", "tokens_per_second", "flops_utilisation"):
                if (value := getattr(record, name)) is not None:
                    self._board.add_scalar(f"training/{name}", value, record.step)
        status = (
            f"loss {record.loss:.3f}  lr {record.learning_rate:.1e}  {record.tokens_per_second:,.0f} tokens/s"
        )
        if record.flops_utilisation is not None:
            status += f"  MFU {record.flops_utilisation:.0%}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=record.step, status=status, description=record.phase)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or record.step == self._steps:
            self._last_line = time.monotonic()
            self.report(f"step {record.step}/{self._steps}  {record.phase}  {status}")

    def held_out(self, step: int, loss: float, tokens: int) -> None:
        """Nats per hidden token of `tokens` tokens of held-out text, 15 % of them hidden."""
        self.write(kind="held_out", step=step, loss=loss, tokens=tokens)
        if self._board:
            self._board.add_scalar("held_out/loss", loss, step)
        self.report(f"held-out loss {loss:.3f} after step {step}")


@contextmanager
def open_log(
    folder: Path | None, report: Callable[[str], None], *, steps: int, step: int, position: int, bar: bool
) -> Iterator[RunLog]:
    """The log of a run of `steps` that begins after `step` with `position` bytes of metrics.jsonl.

    What a stopped run wrote beyond them is dropped, since it is done again. Without a folder nothing is
    written. Raises HwsearchError for a file that cannot be written.
    """
    if folder is None:
        yield RunLog(None, None, None, report, steps)
        return
    path = folder / "metrics.jsonl"
    try:
        # Without a buffer: a line is in the file, or the user hears of it.
        metrics = path.open("r+b" if path.exists() else "w+b", buffering=0)
        metrics.truncate(position)
    except OSError as error:
        raise HwsearchError(f"{path}: cannot write: {error.strerror}") from error
    with metrics:
        metrics.seek(0, 2)
        board = _board(folder / "tensorboard", step, report)
        progress = _progress() if bar else None
        try:
            if progress:
                progress.start()
            yield RunLog(metrics, board, progress, report, steps)
        finally:
            if progress:
                progress.stop()
            if board:
                board.close()


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        "{task.description}",
        BarColumn(bar_width=8),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
    )
    return Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=Console(stderr=True))


def _board(folder: Path, step: int, report: Callable[[str], None]) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        report("no TensorBoard log: the package tensorboard is not installed")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
