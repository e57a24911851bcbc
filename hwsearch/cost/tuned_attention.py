"""What tuned tables (hwsearch.kernels.tuned) make of the time of attention: factors on the library kernel's.

Rows are timed as an encoder runs attention, rotation of queries and keys included, so the factors are on the
library's kernel and the rotation beside it together. A measured row's time is carried to other shapes by the
cost model's own scaling:

    factor = row's seconds / seconds predicted for the library on the row's own workload, heads and GPU

A modelled row says what tuned tiles gain over default ones, nothing of how good those are. Our kernel with
default tiles counts as the library's best, and a gain is never turned into a loss:

    factor = min(1, row's seconds / default_seconds)

Without a row the factor is 1. A backend that a table chose is priced by that table's time; where it is our
Triton kernels, by the tables of their tiles if these fit the call as well.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.distinct import Distinct, Seconds, distinct
from hwsearch.cost.layer import ROTARY_PASSES
from hwsearch.cost.runtime import GAP_S_PER_KERNEL
from hwsearch.cost.stream import STREAM_TRAINING_FACTOR, stream_seconds
from hwsearch.errors import HwsearchError
from hwsearch.gpu.attention_kernels import best_kernel
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.tuned import (
    DTYPES,
    STATES,
    Key,
    Row,
    class_window,
    length_class,
    tuned_for,
    window_class,
)
from hwsearch.settings import RuntimeName
from hwsearch.shape.architecture import MODERNBERT, Architecture
from hwsearch.shape.table import Column
from hwsearch.workload import parse_workload


@dataclass(frozen=True)
class PassTime:
    """Where the time of one pass, forward or backward, comes from.

    Attributes:
        kernel: the library's kernel, "tuned tiles" of ours, or the backend that a table chose.
        source: "library" is the cost model's own prediction.
        state: how the table fits the call, one of hwsearch.kernels.tuned.STATES.
        gpu, date: of the table's row, None without one.
        factor: over what is predicted for the library.
    """

    kernel: str
    source: Literal["measured", "modelled", "library"] = "library"
    state: str = "default"
    gpu: str | None = None
    date: str | None = None
    factor: float = 1.0

    def __str__(self) -> str:
        if self.source == "library":
            return f"library kernel {self.kernel}"
        verb = "measured on" if self.source == "measured" else "modelled for"
        return f"{self.kernel}, {verb} {self.gpu} {self.date} ({self.state}), x{self.factor:.3f}"


@dataclass(frozen=True)
class AttentionTime:
    """Where the time of a layer's attention comes from; `backward` is None in inference."""

    forward: PassTime
    backward: PassTime | None = None

    @classmethod
    def of_library(cls, kernel: str, training: bool) -> AttentionTime:
        time = PassTime(kernel)
        return cls(time, time if training else None)

    @property
    def passes(self) -> tuple[PassTime, ...]:
        return (self.forward,) if self.backward is None else (self.forward, self.backward)

    @property
    def tuned(self) -> bool:
        """Whether any of it comes from a table."""
        return any(each.source != "library" for each in self.passes)

    def __str__(self) -> str:
        texts = list(dict.fromkeys(map(str, self.passes)))
        return texts[0] if len(texts) == 1 else f"forward {texts[0]}; backward {texts[1]}"


@dataclass(frozen=True)
class TunedAttention:
    """What the tables say of one GPU, dtype and longest sequence of a batch; a class is looked up once."""

    gpu: Gpu
    dtype: str
    longest: int
    _found: dict[tuple[Key, bool], AttentionTime] = field(default_factory=dict, repr=False)

    def key(self, head_size: int, window: int | None) -> Key:
        """The class of a layer with `window` keys to each side, None or negative for all."""
        kind = window_class(None if window is None or window < 0 else window, self.longest)
        return Key(self.dtype, head_size, kind, length_class(self.longest))

    def time(self, key: Key, training: bool) -> AttentionTime:
        if (key, training) not in self._found:
            self._found[key, training] = self._look_up(key, training)
        return self._found[key, training]

    def factors(self, head_size: Column, window: Column | None, training: bool) -> tuple[Seconds, Seconds]:
        """Forward's and backward's of every element of arrays of one shape, each [D]."""
        layers = distinct(size=head_size, window=np.full_like(head_size, -1) if window is None else window)
        found = zip(layers["size"].tolist(), layers["window"].tolist(), strict=True)
        times = [self.time(self.key(*each), training) for each in found]
        forward = np.array([time.passes[0].factor for time in times])
        backward = np.array([time.passes[-1].factor for time in times])
        return layers.spread(forward), layers.spread(backward)

    def knows(self, layers: Distinct, training: bool) -> bool:
        """Whether a table answers for any head size and window of `layers`, or for global attention."""
        sizes, windows = (np.unique(layers[name]).tolist() for name in ("head_size", "window"))
        keys = {self.key(size, window) for size in sizes for window in (None, *windows)}
        return any(self.time(key, training).tuned for key in keys)

    def _look_up(self, key: Key, training: bool) -> AttentionTime:
        library = AttentionTime.of_library(best_kernel(self.gpu, self.dtype), training)
        if self.dtype not in DTYPES:
            return library
        tiles = AttentionTime(
            self._pass("attention_forward", key) or library.forward,
            (self._pass("attention_backward", key) or library.backward) if training else None,
        )
        backend = self._pass("attention_backend_training" if training else "attention_backend", key)
        if backend and (backend.kernel != "triton" or _fits_worse(tiles.forward, backend)):
            return AttentionTime(backend, backend if training else None)
        return tiles

    def _pass(self, table: str, key: Key) -> PassTime | None:
        capability = None if self.gpu.name == CPU else self.gpu.compute_capability
        found = tuned_for(table, self.gpu.name, capability, key)
        row = found.row
        if row is None or found.gpu is None:
            return None
        kernel = str(row.config.get("backend", "tuned tiles"))
        if row.source == "modelled":
            gain = 1.0 if row.default_seconds is None else min(1.0, row.seconds / row.default_seconds)
            return PassTime(kernel, "modelled", found.state, found.gpu, row.date, gain)
        try:
            gpu = self.gpu if found.gpu == self.gpu.name else load_gpu(found.gpu)
            factor = row.seconds / _library_seconds(gpu, row, *_PASSES[table])
        except HwsearchError as error:
            _warn(f"tuned {table} on {found.gpu}, {row.key}: not used for predictions: {error}")
            return None
        return PassTime(kernel, "measured", found.state, found.gpu, row.date, factor)


def runs_own_attention(architecture: Architecture, runtime: RuntimeName) -> bool:
    """Whether hwsearch.kernels serve: our own encoder is wired as ModernBERT, and engines bring their own."""
    ours = architecture.name == MODERNBERT.name and architecture.position == "rope"
    return ours and runtime != "tensorrt"


def _fits_worse(one: PassTime, other: PassTime) -> bool:
    return bool(STATES.index(one.state) > STATES.index(other.state))


# What each table's seconds hold, in forward passes of attention and of the rotation, and in kernels of that.
_BACKWARD = (BACKWARD_FACTOR, STREAM_TRAINING_FACTOR - 1)
_PASSES = {
    "attention_forward": (1.0, 1.0),
    "attention_backward": _BACKWARD,
    "attention_backend": (1.0, 1.0),
    "attention_backend_training": (1 + BACKWARD_FACTOR, STREAM_TRAINING_FACTOR),
}


def _library_seconds(gpu: Gpu, row: Row, attentions: float, rotations: float) -> float:
    """Predicted for the library's best kernel and the rotation beside it on what the row was timed with."""
    workload, key = _workload(row.workload), row.key
    if length_class(longest := max(workload.lengths)) > key.length:
        raise HwsearchError(f"workload {row.workload}: sequences of {longest:,}, and it is of another class")
    lengths, counts = workload.computed_lengths(unpads=True)
    attention_s = attention_seconds(
        gpu, key.dtype, lengths, counts, row.heads, key.head_size, class_window(key.window, key.length)
    )
    width = 2 * row.heads * key.head_size
    rotation_s = stream_seconds(gpu, key.dtype, workload.tokens, width, "elementwise", ROTARY_PASSES)
    return float(attentions * attention_s + rotations * (rotation_s + GAP_S_PER_KERNEL))


# A table has few workloads, and all its rows name them.
_workload = functools.cache(parse_workload)


@functools.cache
def _warn(message: str) -> None:
    """Once a process."""
    warnings.warn(message, stacklevel=2)
