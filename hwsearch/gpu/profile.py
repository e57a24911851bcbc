"""A GPU as the cost model sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwsearch.errors import HwsearchError
from hwsearch.gpu.calibration import Calibration

DTYPES = ("bf16", "fp16", "tf32", "fp32")
BYTES_PER_ELEMENT = {"bf16": 2, "fp16": 2, "tf32": 4, "fp32": 4}
CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """Datasheet facts in base units (Hz, bytes, FLOP/s with a multiply-add as 2), and fitted constants.

    `dense_flops_per_s` holds the dense rate with fp32 accumulation for each dtype that the GPU has
    (P100's fp16 accumulates in fp16); `sources` says for every fact where it was read.
    """

    name: str
    product: str
    nvml_names: tuple[str, ...]
    architecture: str
    compute_capability: tuple[int, int]
    sms: int
    boost_hz: float
    dense_flops_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    memory_bytes: int
    l2_bytes: int
    tdp_w: float
    shared_memory_per_sm_bytes: int
    shared_memory_per_block_bytes: int
    registers_per_sm: int
    threads_per_sm: int
    blocks_per_sm: int
    sources: dict[str, str] = field(repr=False)
    calibration: Calibration = field(repr=False)

    @property
    def default_dtype(self) -> str:
        """bf16 where the tensor cores take it, else fp16; fp32 on a CPU."""
        return next(dtype for dtype in ("bf16", "fp16", "fp32") if dtype in self.dense_flops_per_s)

    def check_dtype(self, dtype: str) -> None:
        """Raise HwsearchError unless this GPU multiplies matrices of `dtype`."""
        if dtype not in self.dense_flops_per_s:
            raise HwsearchError(f"{self.name} has no {dtype}; it has {', '.join(self.dense_flops_per_s)}")
