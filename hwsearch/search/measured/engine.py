"""What measures jobs for the measured rung: the devices of this machine, or those of a cluster.

    engine.submit(ticket, "l4", job)
    answer = engine.next(timeout_s=1.0)      # of any job that was submitted, in the order in which they end

The coordinator numbers its jobs with tickets. An engine runs one job at a time on a device, in a process that
never ran another model (EncoderTimer), and answers every job exactly once: with a row, or with the failure
that it came to. A failure is the job's own, and final: what was NOT_READY for it is tried again, and left if
it stays so.

Of jobs that differ in the workload alone one at a time is submitted for a GPU. The next goes to the device
that had the last one, if that is free: the model is built and compiled there already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hwsearch.measure.failure import Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row

DEVICE_GONE = "device gone"
"""Kind of a Failure: nothing can measure this GPU any more. The candidate is not to blame; the engine has
taken the GPU off `gpus` before it answers so, and every job of that GPU that waits gets the same answer."""


@dataclass(frozen=True)
class Answer:
    """What became of one job: a row, or else a failure.

    Attributes:
        ticket: the number that the job was submitted with.
        gpu: the profile's name that it was submitted for.
    """

    ticket: int
    gpu: str
    row: Row | None
    failure: Failure | None


class Engine(Protocol):
    """Devices that jobs can be sent to. One thread at a time may use it.

    Attributes:
        gpus: names of the profiles that it can measure now; may shrink when devices go.
    """

    @property
    def gpus(self) -> frozenset[str]: ...

    def slots(self, gpu: str) -> int:
        """Jobs that can run at once on this GPU's devices; 0 for one not in `gpus`."""
        ...

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        """Queue a job for a GPU; one whose GPU is not, or no longer, in `gpus` is answered DEVICE_GONE."""
        ...

    def next(self, timeout_s: float) -> Answer | None:
        """The next answer; None where none has come within `timeout_s`."""
        ...

    def close(self) -> None:
        """Start nothing more. Jobs that have no answer yet get none; one that runs may run to its end."""
        ...
