"""Seconds of kernels that only move bytes: norms, softmax, activations, residual adds, gathers, optimizers.

    memory_s  = bytes read and written, once more for every pass over a row that has left the caches,
                as hwsearch.cost.traffic prices them
    compute_s = elements / (SMs x clock x elements_per_cycle x speed)
    rows_s    = rows / (SMs x rows at once) x (row_cycles + steps x step_cycles) / (clock x speed), at least
                one row
    seconds   = floor + (memory_s^p + compute_s^p + rows_s^p)^(1/p)

The constants of a kernel are those of all GPUs; `speed` is the GPU's own of that kernel. Norms and wide
softmax give a thread block to each row and pass over it two or three times, with a synchronization in
between: rows_s is the time of these when too few rows are at work to hide it, and the later passes go to
memory again once the rows at work outgrow REREAD_SHARE of L2. PyTorch's kernels: norms by blocks of 128
threads (vectorized_layer_norm_kernel), softmax in registers up to 1024 columns and by blocks of 256 or 512
threads beyond (softmax_warp_forward, cunn_SoftMaxForward); a step is four elements a thread. Numbers:
results/fit_stream.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.cost.traffic import miss_share, traffic_seconds
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu

StreamKernel = Literal["elementwise", "gelu", "layernorm", "softmax"]
Floats = NDArray[np.float64]
WARP_SOFTMAX_COLUMNS = 1024
STEP_ELEMENTS = 4
# The most blocks that an SM of a T4 holds, the least of all GPUs; not fitted.
ROWS_PER_SM = 16
# Taken between 0.65 and 0.75, which suit different GPUs: results/attention_and_stream_designs.md.
REREAD_SHARE = 0.7
# Backward of a stream reads the incoming gradient and what forward saved, and writes a gradient.
STREAM_TRAINING_FACTOR = 3.0


@dataclass(frozen=True)
class Kernel:
    """What fits found of one kernel on all GPUs together; `passes`: reads and writes of every element."""

    passes: float
    elements_per_cycle: float
    row_cycles: float = 0.0
    step_cycles: float = 0.0
    rereads: float = 0.0
    power: float = 4.0


KERNELS: dict[StreamKernel, Kernel] = {
    "elementwise": Kernel(2, math.inf),
    "gelu": Kernel(2, 2.46),
    "layernorm": Kernel(2, 1.81, 7670.0, 243.0, rereads=1, power=4),
    "softmax": Kernel(2, 10.7, 0.0, 3160.0, rereads=2, power=2),
}


def stream_seconds(
    gpu: Gpu,
    dtype: str,
    rows: ArrayLike,
    columns: ArrayLike,
    kernel: StreamKernel = "elementwise",
    passes: ArrayLike | None = None,
) -> Floats:
    """Device time of one kernel over a [rows, columns] matrix of `dtype`, without its launch.

    `passes` counts its reads and writes of every element (2 unless told: one read, one write; an add has
    3). `rows` and `columns` may be arrays that broadcast. Returns float64 seconds in the broadcast shape.
    """
    return kernel_seconds(gpu, BYTES_PER_ELEMENT[dtype], rows, columns, kernel, KERNELS[kernel], passes)


def bytes_seconds(gpu: Gpu, bytes_moved: ArrayLike) -> Floats:
    """Device time of an elementwise kernel that reads and writes `bytes_moved` bytes in all."""
    constants = gpu.calibration.stream
    moved = np.asarray(bytes_moved, dtype=np.float64)
    return constants.floor_s + traffic_seconds(gpu, moved, moved, constants.bytes_per_cycle)


def kernel_seconds(
    gpu: Gpu,
    element_bytes: int,
    rows: ArrayLike,
    columns: ArrayLike,
    name: StreamKernel,
    kernel: Kernel,
    passes: ArrayLike | None,
) -> Floats:
    """`stream_seconds` of `kernel`, which need not be the one in KERNELS; `name` says how it walks rows."""
    constants = gpu.calibration.stream
    rows, columns = np.asarray(rows, dtype=np.float64), np.asarray(columns, dtype=np.float64)
    times = kernel.passes if passes is None else np.asarray(passes, dtype=np.float64)
    speed = {
        "elementwise": 1.0,
        "gelu": constants.gelu_speed,
        "layernorm": constants.norm_speed,
        "softmax": constants.softmax_speed,
    }[name]
    elements = rows * columns
    once = elements * element_bytes * times
    rows_s, again = _row_seconds(gpu, element_bytes, rows, columns, name, kernel)
    moved = once + elements * element_bytes * again
    memory_s = traffic_seconds(gpu, moved, once, constants.bytes_per_cycle)
    compute_s = elements / (gpu.sms * gpu.boost_hz * kernel.elements_per_cycle * speed)
    return np.asarray(constants.floor_s + _norm(kernel.power, memory_s, compute_s, rows_s / speed))


def _row_seconds(
    gpu: Gpu, element_bytes: int, rows: Floats, columns: Floats, name: StreamKernel, kernel: Kernel
) -> tuple[Floats | float, Floats | float]:
    """Seconds of blocks that hold a row each, and how many further passes over the row go to memory."""
    if name not in ("layernorm", "softmax"):
        return 0.0, 0.0
    threads = np.where(columns > 2 * WARP_SOFTMAX_COLUMNS, 512.0, 256.0) if name == "softmax" else 128.0
    by_block = columns > WARP_SOFTMAX_COLUMNS if name == "softmax" else np.ones(columns.shape, dtype=bool)
    at_once = np.minimum((gpu.threads_per_sm or 1) / threads, ROWS_PER_SM)
    at_work = gpu.sms * np.minimum(at_once, np.maximum(rows / gpu.sms, 1)) * columns * element_bytes
    again = kernel.rereads * miss_share(at_work, REREAD_SHARE * gpu.l2_bytes) * by_block
    steps = np.ceil(columns / (threads * STEP_ELEMENTS))
    row_s = (kernel.row_cycles + steps * kernel.step_cycles) / gpu.boost_hz
    turns = np.maximum(rows / (gpu.sms * at_once), np.minimum(rows, 1))
    return np.asarray(turns * row_s * by_block), np.asarray(again)


def _norm(power: float, *parts: Floats | float) -> Floats:
    """The p-norm: a maximum with a rounded corner for 4, close to a sum for 1."""
    largest = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    scale = np.where(largest > 0, largest, 1.0)
    total = sum((part / scale) ** power for part in parts)
    return np.asarray(largest * np.asarray(total) ** (1 / power))
