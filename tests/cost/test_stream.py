"""Prices of kernels that move bytes: bounds, order, and public measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.cost.stream import KERNELS, StreamKernel, bytes_seconds, stream_seconds
from hwsearch.gpu.catalog import gpu_names, load_gpu

GPUS = {name: load_gpu(name) for name in gpu_names()}
names = st.sampled_from(sorted(GPUS))
kernels = st.sampled_from(sorted(KERNELS))
sizes = st.integers(1, 10**5)


@given(names, kernels, sizes, sizes, sizes)
def test_more_rows_are_never_faster(
    name: str, kernel: StreamKernel, rows: int, more: int, columns: int
) -> None:
    less_s, more_s = stream_seconds(GPUS[name], "fp16", [rows, rows + more], columns, kernel)
    assert GPUS[name].calibration.stream.floor_s <= less_s <= more_s * (1 + 1e-9)


@given(names, kernels, sizes, sizes)
def test_memory_is_never_beaten_once_the_bytes_outgrow_the_cache(
    name: str, kernel: StreamKernel, rows: int, columns: int
) -> None:
    gpu = GPUS[name]
    seconds = float(stream_seconds(gpu, "fp32", rows, columns, kernel))
    moved = 8 * rows * columns
    assert seconds > moved / (gpu.sms * gpu.boost_hz * 40)
    assert seconds > (moved - 2 * gpu.l2_bytes) / gpu.bandwidth_bytes_per_s * 0.95


def test_bytes_alone_are_an_elementwise_kernel() -> None:
    for gpu in GPUS.values():
        by_shape = stream_seconds(gpu, "fp16", np.array([10, 10**5]), 1000, passes=3)
        assert bytes_seconds(gpu, 6 * 1000 * np.array([10, 10**5])) == pytest.approx(by_shape)


def test_rows_that_outgrow_the_caches_are_read_again() -> None:
    """A norm reads its row twice: once from memory while the rows at work fit into L2, else twice."""
    gpu = GPUS["t4"]
    per_element = [
        float(stream_seconds(gpu, "fp32", 2**28 // c, c, "layernorm")) / 2**28 for c in (512, 8192)
    ]
    assert per_element[1] / per_element[0] == pytest.approx(1.5, rel=0.05)


def test_a_row_takes_its_time_however_few_there_are() -> None:
    gpu = GPUS["a100-sxm-80"]
    one, many, floor = (float(stream_seconds(gpu, "fp16", rows, 2560, "layernorm")) for rows in (1, 100, 0))
    assert floor == gpu.calibration.stream.floor_s
    assert one > floor + 3e-6
    assert many == pytest.approx(one, rel=0.1)


# GPU, kernel, passes, rows, columns, milliseconds in fp16: microsoft/vidur 7d47513.
MEASURED: list[tuple[str, StreamKernel, int, int, int, float]] = [
    ("a100-sxm-80", "elementwise", 3, 4096, 8192, 0.112),
    ("h100-sxm", "elementwise", 3, 2048, 4096, 0.01475),
    ("a100-sxm-80", "layernorm", 2, 4096, 2560, 0.043),
    ("h100-sxm", "layernorm", 2, 512, 2560, 0.006),
    ("a100-sxm-80", "gelu", 2, 4096, 10240, 0.1245),
    ("h100-sxm", "gelu", 2, 1024, 10240, 0.019),
]


@pytest.mark.parametrize("case", MEASURED)
def test_measured_points(case: tuple[str, StreamKernel, int, int, int, float]) -> None:
    name, kernel, passes, rows, columns, milliseconds = case
    seconds = float(stream_seconds(GPUS[name], "fp16", rows, columns, kernel, passes))
    assert seconds * 1e3 == pytest.approx(milliseconds, rel=0.2)
