"""Why a call has no answer: a kind that programs read, a line that people read."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, OUT_OF_MEMORY, CRASH, TIME_OUT = "error", "out of memory", "crash", "time-out"

REASON_LENGTH = 160


@dataclass(frozen=True)
class Failure:
    """A call that gave no answer.

    Attributes:
        kind: "error" | "out of memory" | "crash" | "time-out".
        reason: one line.
        output: the last lines that the call printed, to standard output or error; empty if none.
    """

    kind: str
    reason: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def failure(error: BaseException) -> Failure:
    """What an exception comes to; memory that ran out, the host's or the device's, has a kind of its own."""
    text = str(error).lower()
    # torch.OutOfMemoryError, and CUDA's own words where memory is not asked for through torch.
    memory = isinstance(error, MemoryError) or "out of memory" in text
    return Failure(OUT_OF_MEMORY if memory else ERROR, reason(error))


def reason(error: BaseException) -> str:
    """One line: the kind of failure and the first line of what it says."""
    text = str(error).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {text[0][:REASON_LENGTH]}" if text else kind
