"""Why a call has no answer: a kind that programs read, a line that people read."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, OUT_OF_MEMORY, CRASH, TIME_OUT = "error", "out of memory", "crash", "time-out"
# No start of the process, no package, something refused by the system: what was asked is not to blame.
NOT_READY = "not ready"

REASON_LENGTH = 160
# torch.OutOfMemoryError's words, which are CUDA's own too; torch's CPU allocator's, the kernel's, C++'s.
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "std::bad_alloc")


@dataclass(frozen=True)
class Failure:
    """A call that gave no answer.

    Attributes:
        kind: "error" | "out of memory" | "crash" | "time-out" | "not ready".
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
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return Failure(OUT_OF_MEMORY, reason(error))
    return Failure(NOT_READY if isinstance(error, ImportError | OSError) else ERROR, reason(error))


def reason(error: BaseException) -> str:
    """One line: the kind of failure and the first line of what it says."""
    text = str(error).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {text[0][:REASON_LENGTH]}" if text else kind
