"""Prices of kernels that move bytes: bounds, order, and public measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.catalog import gpu_names, load_gpu

GPUS = {name: load_gpu(name) for name in gpu_names()}
names = st.sampled_from(sorted(GPUS))
byte_counts = st.integers(0, 10**11)


@given(names, byte_counts, byte_counts, st.booleans())
def test_more_bytes_are_never_faster(name: str, moved: int, more: int, norm: bool) -> None:
    less_s, more_s = stream_seconds(GPUS[name], [moved, moved + more], norm=norm)
    assert GPUS[name].calibration.stream.floor_s <= less_s <= more_s


@given(names, st.integers(1, 10**11))
def test_memory_is_never_beaten_once_the_bytes_outgrow_the_cache(name: str, moved: int) -> None:
    gpu = GPUS[name]
    seconds = float(stream_seconds(gpu, moved))
    if moved > gpu.l2_bytes:
        assert seconds > moved / gpu.bandwidth_bytes_per_s
    else:
        assert seconds > moved / (gpu.bandwidth_bytes_per_s * 1.5)


def test_norms_are_marked_by_element() -> None:
    gpu = GPUS["t4"]
    plain, norm = stream_seconds(gpu, 10**9, norm=np.array([False, True]))
    c = gpu.calibration.stream
    assert (norm - c.floor_s) / (plain - c.floor_s) == pytest.approx(
        c.bandwidth_fraction / c.norm_bandwidth_fraction
    )
    assert norm > plain


# Bytes and milliseconds: fp32 of sitar-lab/NeuSight 6945927, fp16 adds of microsoft/vidur 7d47513.
MEASURED = [
    ("t4", True, 88_339_200, 0.4152213),
    ("a100-pcie-40", False, 2_147_483_648, 1.5474368),
    ("a100-pcie-80", True, 1_073_741_824, 0.723488),
    ("p100", False, 192_722_676, 0.3679616),
    ("a100-sxm-80", False, 368_050_176, 0.214),
    ("h100-sxm", False, 33_423_360, 0.009),
]


@pytest.mark.parametrize(("name", "norm", "moved", "milliseconds"), MEASURED)
def test_measured_points(name: str, norm: bool, moved: int, milliseconds: float) -> None:
    assert float(stream_seconds(GPUS[name], moved, norm)) * 1e3 == pytest.approx(milliseconds, rel=0.35)
