"""What a device is asked to time: one shape on one workload. Plain data, no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import get_args

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import BYTES_PER_ELEMENT
from hwsearch.kernels.backends import BACKENDS
from hwsearch.settings import Head, Mode, RuntimeName
from hwsearch.shape.buildable import check_wiring
from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.workload import MAX_LENGTH, MAX_SEQUENCES, Workload

# Everything of hwsearch.settings but TensorRT, which runs none of our code.
RUNTIMES = ("eager", "graph", "compile")


@dataclass(frozen=True)
class Job:
    """One shape on one workload, as it is to be run.

    Attributes:
        dtype: of weights and products in inference; in training of the products alone, under autocast.
        runtime: "eager" | "graph" | "compile".
        head: "none" ends behind the encoder; "mlm" goes on to the logits, in training to the loss.
        backend: of the attention, one of hwsearch.kernels.dispatch.BACKENDS; None lets dispatch choose.

    Raises HwsearchError as `check` does.
    """

    shape: EncoderShape
    workload: Workload
    dtype: str
    mode: Mode
    runtime: RuntimeName
    head: Head
    backend: str | None = None

    def __post_init__(self) -> None:
        self.check()

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of all that is asked; the lengths count, not what they are called."""
        asked = (self.shape.hash(), self.workload.lengths, self.dtype, self.mode, self.runtime)
        return hashlib.sha256(repr((*asked, self.head, self.backend)).encode()).hexdigest()[:16]

    @property
    def model(self) -> tuple[object, ...]:
        """All that is asked but the workload: jobs that have it in common run the same model."""
        return self.shape, self.dtype, self.mode, self.runtime, self.head, self.backend

    def check(self) -> None:
        """Raises HwsearchError for what cannot be run. A worker asks again: pickle builds unchecked ones."""
        for name, accepted in (
            ("dtype", tuple(BYTES_PER_ELEMENT)),
            ("mode", get_args(Mode)),
            ("runtime", RUNTIMES),
            ("head", get_args(Head)),
            ("backend", (None, *BACKENDS)),
        ):
            if (value := getattr(self, name)) not in accepted:
                listed = ", ".join(each for each in accepted if each)
                raise HwsearchError(f"{name}: {value!r} cannot be measured; accepted: {listed}")
        if self.mode == "training" and self.head == "none":
            raise HwsearchError("head: none has no loss to train on; accepted in training: mlm")
        _check_shape(self.shape)
        _check_workload(self.workload)
        rows, longest = self.shape.max_position_embeddings, max(self.workload.lengths)
        if self.shape.architecture.position == "learned" and longest > rows:
            raise HwsearchError(
                f"workload {self.workload.spec}: length {longest}; accepted: up to {rows}, the learned"
                f" positions of {self.shape}"
            )


def _check_shape(shape: EncoderShape) -> None:
    if not isinstance(shape, EncoderShape):
        raise HwsearchError(f"shape: found a {type(shape).__name__}; accepted: an EncoderShape")
    check_wiring(shape)
    if EncoderShape.from_dict(shape.to_dict()) != shape:
        raise HwsearchError(f"{shape}: its wiring is none that options can say")


def _check_workload(workload: Workload) -> None:
    if not isinstance(workload, Workload):
        raise HwsearchError(f"workload: found a {type(workload).__name__}; accepted: a Workload")
    lengths = workload.lengths
    if not 1 <= len(lengths) <= MAX_SEQUENCES:
        raise HwsearchError(
            f"workload {workload.spec}: {len(lengths)} sequences; accepted: 1 to {MAX_SEQUENCES:,}"
        )
    wrong = [each for each in lengths if type(each) is not int or not 1 <= each <= MAX_LENGTH]
    if wrong:
        raise HwsearchError(f"workload {workload.spec}: length {wrong[0]!r}; accepted: 1 to {MAX_LENGTH:,}")
