"""fp32 products against the formula in plain Python, physics, and public measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.cost.gemm import gemm_plan
from hwsearch.cost.gemm_simt import ISSUE_SHARE, SIMT, sgemm_batched_seconds, sgemm_seconds
from hwsearch.gpu.calibration import SimtConstants
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.power import sustained_clock_hz
from hwsearch.gpu.profile import Gpu

GPUS = {name: load_gpu(name) for name in gpu_names()}
names = st.sampled_from(sorted(GPUS))
sizes = st.integers(1, 20_000)

# tile of outputs, tile of rows, warps a block, blocks an SM, kind
VOLTA = [
    (128, 128, 8, 2, "128x128"),
    (128, 64, 4, 4, "128x64"),
    (64, 64, 2, 8, "64x64"),
    (32, 128, 8, 4, "128x32"),
    (128, 32, 8, 4, "128x32"),
    (128, 32, 8, 2, "128x32 sliced"),
    (64, 32, 8, 2, "64x32 sliced"),
    (32, 32, 4, 4, "32x32 sliced"),
]
PASCAL = VOLTA[2:5]


def slow_sgemm(gpu: Gpu, m: int, n: int, k: int) -> float:
    """The documented formula, one kernel and split after another."""
    lanes = gpu.dense_flops_per_s["fp32"] / gpu.boost_hz / gpu.sms / 2
    lanes *= ISSUE_SHARE.get(gpu.compute_capability, 1)
    c = gpu.calibration.gemm["fp32"]
    assert isinstance(c, SimtConstants)
    bandwidth = gpu.bandwidth_bytes_per_s * c.bandwidth_fraction
    clock = sustained_clock_hz(gpu, "fp32") * c.compute_fraction
    best = math.inf
    for outputs, rows, warps, resident, kind in VOLTA if gpu.compute_capability[0] >= 7 else PASCAL:
        for split in (1, 2, 4, 8):
            per_sm = math.ceil(math.ceil(n / outputs) * math.ceil(m / rows) * split / gpu.sms)
            loop = per_sm * outputs * rows * math.ceil(k / split) / (lanes * SIMT.efficiency[kind])
            loop *= 1 + SIMT.latency_warps / (warps * min(per_sm, resident))
            cycles = loop + SIMT.prologue_cycles * math.ceil(per_sm / resident)
            moved = 4 * (m * k + n * k + m * n) + (8 * split * m * n if split > 1 else 0)
            compute_s = cycles / clock
            best = min(best, (compute_s**4 + (moved / bandwidth) ** 4) ** 0.25)
    return c.floor_s + best


@given(names, sizes, sizes, sizes)
def test_equals_the_formula_written_out(name: str, m: int, n: int, k: int) -> None:
    assert float(sgemm_seconds(GPUS[name], "fp32", m, n, k)) == pytest.approx(slow_sgemm(GPUS[name], m, n, k))


@given(names, sizes, sizes, sizes)
def test_the_plan_explains_the_price(name: str, m: int, n: int, k: int) -> None:
    gpu = GPUS[name]
    plan = gemm_plan(gpu, "fp32", [m], [n], [k])
    assert plan.seconds[0] == pytest.approx(float(sgemm_seconds(gpu, "fp32", m, n, k)), rel=1e-12)
    tiles = math.ceil(m / plan.tile_m[0]) * math.ceil(n / plan.tile_n[0]) * plan.split_k[0]
    assert plan.waves[0] == math.ceil(tiles / gpu.sms)
    assert plan.tail_utilisation[0] == pytest.approx(tiles / (plan.waves[0] * gpu.sms))
    area = plan.tile_m[0] * plan.tile_n[0]
    assert plan.tile_utilisation[0] == pytest.approx(m * n * plan.split_k[0] / (tiles * area))


def test_what_bounds_a_product() -> None:
    """A T4 has 70 W; a V100's 250 W suffice for its boost clock."""
    square, row, dot = (8192, 8192, 8192), (1, 20_000, 8192), (1, 1, 1)
    assert gemm_plan(GPUS["t4"], "fp32", *square).bound == "power"
    assert gemm_plan(GPUS["v100"], "fp32", *square).bound == "issue"
    assert gemm_plan(GPUS["v100"], "fp32", *row).bound == "memory"
    assert gemm_plan(GPUS["v100"], "fp32", *dot).bound == "overhead"


@given(names, sizes, sizes, sizes, st.integers(1, 5_000))
def test_more_work_is_never_faster(name: str, m: int, n: int, k: int, more: int) -> None:
    seconds = sgemm_seconds(GPUS[name], "fp32", [m, m + more, m, m], [n, n, n + more, n], [k, k, k, k + more])
    assert (seconds[1:] >= seconds[0] * (1 - 1e-12)).all()


@given(names, st.integers(1, 3_000), st.integers(1, 2_000), st.integers(1, 2_000), st.integers(1, 2_000))
def test_a_batch_beats_neither_lanes_nor_memory(name: str, b: int, m: int, n: int, k: int) -> None:
    gpu = GPUS[name]
    seconds = float(sgemm_batched_seconds(gpu, "fp32", b, m, n, k))
    assert seconds > 2 * b * m * n * k / gpu.dense_flops_per_s["fp32"]
    assert seconds > 4 * b * (m * k + k * n + m * n) / gpu.bandwidth_bytes_per_s


def test_broadcasts() -> None:
    many = sgemm_batched_seconds(GPUS["v100"], "fp32", [[1], [8]], 128, np.array([64, 128, 256]), 64)
    assert many.shape == (2, 3)
    one = float(sgemm_batched_seconds(GPUS["v100"], "fp32", 8, 128, 256, 64))
    assert many[1, 2] == pytest.approx(one, rel=1e-12)


def test_a_short_product_gains_from_a_loop_where_power_is_short_and_only_there() -> None:
    def gain(name: str, size: int) -> float:
        gpu = GPUS[name]
        alone = sgemm_seconds(gpu, "fp32", size, size, size, in_a_loop=True)
        return float(sgemm_seconds(gpu, "fp32", size, size, size) / alone)

    assert 1.2 < gain("t4", 1024) < 1.5
    assert gain("t4", 16_384) == pytest.approx(1, abs=0.01)
    assert gain("v100", 1024) == 1


# Sustained fp32 TFLOP/s of torch.mm(8192 x 8192), github.com/zzc0721/torch-performance-test-data, issues 120,
# 185, 140 and 79: the L4 and the A40 set no energy.
@pytest.mark.parametrize(
    ("name", "tflops"), [("l4", 10.7), ("a40", 23.7), ("v100", 14.4), ("h100-sxm", 51.8)]
)
def test_measured_square_products(name: str, tflops: float) -> None:
    predicted = 2 * 8192**3 / float(sgemm_seconds(GPUS[name], "fp32", 8192, 8192, 8192)) / 1e12
    assert predicted == pytest.approx(tflops, rel=0.1)
