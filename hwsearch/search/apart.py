"""`train` in a process of its own, so that a crash, or memory that runs out, costs one shape."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.measure.child import Child
from hwsearch.measure.failure import Failure, failure
from hwsearch.shape import EncoderShape
from hwsearch.training import Recipe, TrainingResult, train
from hwsearch.training.loop import Judge

# What a process that trains has to say: steps done and the loss there, to be judged, or how it ended.
Event = tuple[int, float] | TrainingResult | HwsearchError | Failure


def train_apart(
    shape: EncoderShape,
    data: Sequence[Path],
    out: Path,
    recipe: Recipe,
    *,
    tokenizer: Path | None,
    rates_of: EncoderShape,
    judge: Judge,
) -> TrainingResult:
    """`train` with these arguments, going on from the newest checkpoint where there is one.

    `judge` is asked in this process. Ctrl-C ends the other one at once: its last checkpoint stays.

    Raises HwsearchError for whatever ends it: what `train` raises, an exception, a crash.
    """
    arguments = {
        "shape": shape,
        "data": list(data),
        "out": out,
        "recipe": recipe,
        "tokenizer": tokenizer,
        "rates_of": rates_of,
        "resume": True,
    }
    with Child(_Trainer) as child:
        event: Event = child.call("begin", arguments, timeout=math.inf)
        while isinstance(event, tuple):
            event = child.call("go_on", judge(*event), timeout=math.inf)
    if isinstance(event, Failure):
        raise HwsearchError(str(event))
    if isinstance(event, HwsearchError):
        raise event
    return event


class _Trainer:
    """In the other process: `train` in a thread, which waits wherever it asks the judge."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._answers: SimpleQueue[bool] = SimpleQueue()

    def begin(self, arguments: dict[str, Any]) -> Event:
        threading.Thread(target=self._train, args=(arguments,), daemon=True).start()
        return self._events.get()

    def go_on(self, ends: bool) -> Event:
        self._answers.put(ends)
        return self._events.get()

    def _train(self, arguments: dict[str, Any]) -> None:
        try:
            self._events.put(train(**arguments, judge=self._judge, report=lambda line: None))
        except HwsearchError as error:
            self._events.put(error)
        except BaseException as error:  # the parent waits for an answer
            traceback.print_exc()
            self._events.put(failure(error))

    def _judge(self, step: int, loss: float) -> bool:
        self._events.put((step, loss))
        return self._answers.get()
