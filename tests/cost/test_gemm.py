"""GEMM prices against an independent slow implementation, physics, and public measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.cost.gemm import bmm_seconds, gemm_plan, gemm_seconds
from hwsearch.errors import HwsearchError
from hwsearch.gpu.calibration import GemmConstants
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu

GPUS = {name: load_gpu(name) for name in gpu_names()}
PAIRS = [
    (name, dtype)
    for name, gpu in GPUS.items()
    for dtype, constants in gpu.calibration.gemm.items()
    if isinstance(constants, GemmConstants)
]
sizes = st.integers(1, 20_000)
pairs = st.sampled_from(PAIRS)


TILES = [(256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64)]
TILES += [(64, 32), (32, 64), (32, 32), (64, 16), (16, 64), (8, 64)]


def slow_gemm(gpu: Gpu, dtype: str, m: int, n: int, k: int, batch: int = 1, weight_sets: int = 6) -> float:
    """The documented formula, one variant after another, in plain Python."""
    c = gpu.calibration.gemm[dtype]
    assert isinstance(c, GemmConstants)
    element, dense = (4 if dtype == "tf32" else 2), gpu.dense_flops_per_s[dtype]
    cold = gpu.bandwidth_bytes_per_s * c.bandwidth_fraction
    weights, rest = element * batch * n * k, element * batch * m * (n + k)
    held = 1 / (1 + ((weight_sets * weights + rest) / (0.9 * gpu.l2_bytes)) ** 8)
    bytes_s = (weights + rest) * (held / (cold * c.cached_speedup) + (1 - held) / cold)
    best = math.inf
    for tm, tn in TILES:
        for s in (1, 2, 4, 8, 16):
            blocks = batch * math.ceil(m / tm) * math.ceil(n / tn) * s
            waves, depth = math.ceil(blocks / gpu.sms), 32 * math.ceil(k / (32 * s))
            overhead = c.block_overhead_s + c.tile_overhead_s * tm * tn / 128**2
            issue = waves * (overhead + 2 * tm * tn * depth / (dense / gpu.sms * c.compute_fraction))
            latency = math.ceil(waves / 2) * (overhead + c.step_latency_s * depth / 64)
            power = 2 * tm * tn * depth * blocks / (dense * c.sustained_fraction)
            seconds = (max(issue, latency, power) ** 4 + bytes_s**4) ** 0.25
            if s > 1:
                seconds += c.split_s + 8 * batch * m * n * s / (cold * c.cached_speedup)
            best = min(best, seconds)
    return c.floor_s + best


@given(pairs, sizes, sizes, sizes)
def test_equals_the_formula_written_out(pair: tuple[str, str], m: int, n: int, k: int) -> None:
    gpu = GPUS[pair[0]]
    assert float(gemm_seconds(gpu, pair[1], m, n, k)) == pytest.approx(
        slow_gemm(gpu, pair[1], m, n, k), rel=1e-9
    )


@given(pairs, sizes, sizes, sizes, st.integers(1, 5_000))
def test_more_work_is_never_faster(pair: tuple[str, str], m: int, n: int, k: int, more: int) -> None:
    gpu, dtype = GPUS[pair[0]], pair[1]
    seconds = gemm_seconds(gpu, dtype, [m, m + more, m, m], [n, n, n + more, n], [k, k, k, k + more])
    assert (seconds[1:] >= seconds[0] * (1 - 1e-12)).all()


@given(pairs, st.integers(1, 400), sizes, sizes, sizes)
def test_a_batch_equals_the_formula_written_out(
    pair: tuple[str, str], batch: int, m: int, n: int, k: int
) -> None:
    gpu = GPUS[pair[0]]
    expected = slow_gemm(gpu, pair[1], m, n, k, batch, weight_sets=1)
    assert float(bmm_seconds(gpu, pair[1], batch, m, n, k)) == pytest.approx(expected, rel=1e-9)


@given(pairs, sizes, sizes, sizes)
def test_neither_memory_nor_products_are_beaten(pair: tuple[str, str], m: int, n: int, k: int) -> None:
    gpu, dtype = GPUS[pair[0]], pair[1]
    c = gpu.calibration.gemm[dtype]
    assert isinstance(c, GemmConstants)
    seconds = float(gemm_seconds(gpu, dtype, m, n, k))
    sustained = min(c.compute_fraction, c.sustained_fraction)
    moved = (4 if dtype == "tf32" else 2) * (m * k + n * k + m * n)
    assert seconds >= 2 * m * n * k / (gpu.dense_flops_per_s[dtype] * sustained) * (1 - 1e-9)
    assert seconds >= moved / (gpu.bandwidth_bytes_per_s * c.cached_speedup)
    if moved > 3 * gpu.l2_bytes:
        assert seconds >= 0.999 * moved / gpu.bandwidth_bytes_per_s
    assert seconds > c.floor_s


def test_no_gpu_sustains_more_than_its_dense_rate_by_more_than_boost() -> None:
    # GeForce cards run some 8 % above their rated boost clock: 178.8 of 165.2 TFLOP/s were measured.
    for name, dtype in PAIRS:
        rate = 2 * 8192**3 / float(gemm_seconds(GPUS[name], dtype, 8192, 8192, 8192))
        assert rate < 1.11 * GPUS[name].dense_flops_per_s[dtype], (name, dtype)


@settings(max_examples=20)
@given(pairs, st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=30))
def test_arrays_equal_scalars(pair: tuple[str, str], triples: list[tuple[int, int, int]]) -> None:
    gpu, dtype = GPUS[pair[0]], pair[1]
    m, n, k = np.array(triples).T
    together = gemm_seconds(gpu, dtype, m, n, k)
    assert together.dtype == np.float64 and together.shape == (len(triples),)
    # numpy's vector instructions round the last digit another way than its scalar loop does.
    alone = [float(gemm_seconds(gpu, dtype, *t)) for t in triples]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


def test_sizes_broadcast() -> None:
    table = gemm_seconds(GPUS["l4"], "bf16", np.array([[64], [512]]), np.array([768, 1024, 2048]), 1024)
    assert table.shape == (2, 3)
    assert table[1, 2] == pytest.approx(float(gemm_seconds(GPUS["l4"], "bf16", 512, 2048, 1024)), rel=1e-12)


@given(pairs, sizes, sizes, sizes)
def test_the_plan_explains_the_price(pair: tuple[str, str], m: int, n: int, k: int) -> None:
    gpu, dtype = GPUS[pair[0]], pair[1]
    plan = gemm_plan(gpu, dtype, [m], [n], [k])
    assert plan.seconds[0] == pytest.approx(float(gemm_seconds(gpu, dtype, m, n, k)), rel=1e-12)
    tiles = math.ceil(m / plan.tile_m[0]) * math.ceil(n / plan.tile_n[0]) * plan.split_k[0]
    assert plan.waves[0] == math.ceil(tiles / gpu.sms)
    assert plan.tail_utilisation[0] == pytest.approx(tiles / (plan.waves[0] * gpu.sms))
    assert 0 < plan.tail_utilisation[0] <= 1
    area = int(plan.tile_m[0] * plan.tile_n[0])
    assert plan.tile_utilisation[0] == pytest.approx(m * n * plan.split_k[0] / (tiles * area))


@given(pairs, sizes, sizes, sizes)
def test_the_plan_names_the_longest_time(pair: tuple[str, str], m: int, n: int, k: int) -> None:
    gpu, dtype = GPUS[pair[0]], pair[1]
    c, dense = gpu.calibration.gemm[dtype], gpu.dense_flops_per_s[dtype]
    assert isinstance(c, GemmConstants)
    plan = gemm_plan(gpu, dtype, m, n, k)
    area, depth = int(plan.tile_m * plan.tile_n), 32 * math.ceil(k / (32 * int(plan.split_k)))
    waves, blocks = int(plan.waves), round(float(plan.waves * plan.tail_utilisation) * gpu.sms)
    overhead = c.block_overhead_s + c.tile_overhead_s * area / 128**2
    multiply, step = 2 * area * depth / (dense / gpu.sms * c.compute_fraction), c.step_latency_s * depth / 64
    longest = {
        "issue": waves * (overhead + multiply),
        "latency": math.ceil(waves / 2) * (overhead + step),
        "power": 2 * area * depth * blocks / (dense * c.sustained_fraction),
    }
    useful = {"issue": waves * multiply, "latency": math.ceil(waves / 2) * step, "power": longest["power"]}
    name = max(longest, key=lambda each: longest[each])
    if plan.bound == "overhead":
        assert useful[name] < plan.seconds / 2
    elif plan.bound == "memory":
        # What is not products, under the rounded corner, is bytes: the larger of two is at least this share.
        assert longest[name] <= float(plan.seconds) / 2**0.25
    else:
        assert plan.bound == name and useful[name] >= 0.5 * plan.seconds * (1 - 1e-9)


def test_what_bounds_a_product() -> None:
    plan = gemm_plan(GPUS["a100-sxm-80"], "bf16", [8, 8192, 1], [8192, 8192, 1], [8192, 8192, 1])
    assert plan.bound.tolist()[0] == "memory" and plan.bound.tolist()[1] in ("issue", "power")
    assert plan.bound.tolist()[2] == "overhead"


def test_tile_quantisation_shows_where_it_was_measured() -> None:
    # n 12288, k 4096: 256 rows fill the tiles, 257 do not.
    at_256, at_257 = gemm_seconds(GPUS["a100-sxm-80"], "bf16", [256, 257], 12288, 4096)
    assert at_257 > 1.15 * at_256


def test_a_dtype_that_the_gpu_lacks_is_refused() -> None:
    with pytest.raises(HwsearchError, match="t4 has no bf16; it has fp16, fp32"):
        gemm_seconds(GPUS["t4"], "bf16", 1, 1, 1)


# Milliseconds, median over backends: ai-dynamo/aiconfigurator 095f58a; fp32: sitar-lab/NeuSight 6945927.
MEASURED = [
    ("a100-sxm-80", "bf16", 2048, 1024, 1024, 0.0302907),
    ("a100-sxm-80", "bf16", 8192, 4096, 4096, 1.108475),
    ("a100-sxm-80", "bf16", 64, 4096, 1024, 0.0104649),
    ("l40s", "bf16", 512, 1024, 1024, 0.0092501),
    ("l40s", "bf16", 8192, 1024, 4096, 0.2841885),
    ("h100-sxm", "bf16", 4096, 4096, 1024, 0.0512756),
    ("h100-sxm", "bf16", 257, 4096, 4096, 0.022608),
    ("b200", "bf16", 2048, 1024, 1024, 0.0055751),
    ("b200", "bf16", 8192, 4096, 4096, 0.1727538),
    ("a100-pcie-40", "fp32", 7427, 1347, 760, 0.968309),
    ("p100", "fp32", 5397, 6125, 1192, 13.1868),
    ("t4", "fp32", 16384, 1024, 4096, 33.541),
]


@pytest.mark.parametrize(("name", "dtype", "m", "n", "k", "milliseconds"), MEASURED)
def test_measured_points(name: str, dtype: str, m: int, n: int, k: int, milliseconds: float) -> None:
    assert float(gemm_seconds(GPUS[name], dtype, m, n, k)) * 1e3 == pytest.approx(milliseconds, rel=0.35)
