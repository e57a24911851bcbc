"""What is to be tuned: a kernel, on a GPU, for one kind of call."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.gpu.profile import Gpu
from hwsearch.kernels.tuned import Key
from hwsearch.workload import Workload


@dataclass(frozen=True)
class Problem:
    """
    Attributes:
        heads: query heads.
        workload: the batch that is timed; its longest sequence is of the class's length.
        window: keys to each side, None for all.
    """

    kernel: str
    gpu: Gpu
    key: Key
    heads: int
    workload: Workload
    window: int | None
