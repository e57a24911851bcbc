"""Kernels of a layer by runtime, against what PyTorch and engines are known to run, written out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hwsearch.cost.layer import Attention, Gemm, Products, Stream, count_kernels, layer_operators
from hwsearch.cost.models import GATED, PLAIN
from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape import PRESETS
from hwsearch.shape.architecture import Architecture
from hwsearch.workload import parse_workload

A100, V100, T4 = load_gpu("a100-sxm-80"), load_gpu("v100"), load_gpu("t4")


def streams(runtime: RuntimeName, dtype: str, width: str, architecture: Architecture = PLAIN) -> float:
    """Bytes that one layer on an A100 moves for each element of tensors as wide as `width`."""
    element = 4 if dtype in ("fp32", "tf32") else 2
    operators = layer_operators(architecture, RUNTIMES[runtime].kernels(A100, dtype))
    return element * sum(
        o.passes for o in operators if isinstance(o, Stream) and o.width == width and o.rows == "tokens"
    )


# Norm, cast of its output, residual add: twice a layer.
@pytest.mark.parametrize(
    ("runtime", "dtype", "bytes_moved"),
    [
        ("eager", "bf16", 2 * ((4 + 4) + (4 + 2) + (2 + 4 + 4))),
        ("graph", "fp16", 2 * ((4 + 4) + (4 + 2) + (2 + 4 + 4))),
        ("eager", "fp32", 2 * ((4 + 4) + (4 + 4 + 4))),
        ("compile", "bf16", 2 * (2 + 4 + 4 + 2)),
        ("compile", "fp32", 2 * (4 + 4 + 4)),
        ("tensorrt", "fp16", 2 * (2 + 2 + 2)),
    ],
)
def test_bytes_around_residuals_and_norms(runtime: RuntimeName, dtype: str, bytes_moved: int) -> None:
    assert streams(runtime, dtype, "hidden") == bytes_moved


def test_engines_write_the_sum_that_a_pre_norm_keeps() -> None:
    assert streams("tensorrt", "fp16", "hidden", GATED) == 2 * (2 + 2 + 2 + 2)


def test_engines_put_a_plain_activation_into_the_product_before_it() -> None:
    assert streams("tensorrt", "fp16", "intermediate") == 0
    assert streams("tensorrt", "fp16", "intermediate", GATED) == 2 + 2 + 2
    assert streams("compile", "fp16", "intermediate") == 2 + 2
    assert streams("eager", "fp16", "intermediate", GATED) == (2 + 2) + (2 + 2 + 2)


def test_autocast_rotates_in_fp32_kernel_by_kernel() -> None:
    product, negate, join, total, cast = 2 + 2 + 4, 1 + 1, 2 + 2, 4 + 4 + 4, 4 + 2
    # The tables of cosines are small; both products read and write a tensor, the first reads a table too.
    assert streams("eager", "bf16", "rotated", GATED) == pytest.approx(
        2 * product + negate + join + total + cast, rel=0.1
    )
    assert streams("compile", "bf16", "rotated", GATED) == 2 + 2
    modernbert = PRESETS["modernbert-base"].architecture
    assert streams("eager", "bf16", "rotated", modernbert) == 2 + 2


def test_weights_are_cast_where_autocast_meets_them_anew() -> None:
    def cast(runtime: RuntimeName, dtype: str) -> int:
        operators = layer_operators(PLAIN, RUNTIMES[runtime].kernels(A100, dtype))
        return sum(isinstance(o, Stream) and o.rows not in ("tokens", "scores") for o in operators)

    assert cast("eager", "bf16") == cast("compile", "bf16") == 4
    assert cast("graph", "bf16") == cast("tensorrt", "bf16") == cast("eager", "fp32") == 0

    # One token: what eager adds to graph on the device is 6 bytes for each weight of a linear layer.
    eager, graph = (
        predict_shape(PRESETS["bert-large"], A100, parse_workload("fixed:1x1"), runtime=name).device_s
        for name in ("eager", "graph")
    )
    weights = 24 * 12 * 1024**2
    assert 0.7 < (eager - graph) * A100.bandwidth_bytes_per_s / (6 * weights) < 2


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_attention_is_one_kernel_where_one_exists(runtime: RuntimeName) -> None:
    def fused(gpu_name: str, dtype: str) -> bool:
        operators = layer_operators(PLAIN, RUNTIMES[runtime].kernels(load_gpu(gpu_name), dtype))
        products = any(isinstance(o, Products) for o in operators)
        assert products != any(isinstance(o, Attention) for o in operators)
        return not products

    assert fused("a100-sxm-80", "bf16") and fused("t4", "fp16")
    assert not fused("a100-sxm-80", "fp32") and not fused("h100-sxm", "tf32")
    assert fused("v100", "fp16") == (runtime != "tensorrt")


def test_engines_bring_their_own_attention_until_hopper() -> None:
    def kernel(runtime: RuntimeName, gpu_name: str) -> str | None:
        return RUNTIMES[runtime].kernels(load_gpu(gpu_name), "fp16").attention_kernel

    assert kernel("tensorrt", "t4") == kernel("tensorrt", "l4") == "engine"
    assert kernel("tensorrt", "h100-sxm") is None
    assert kernel("eager", "t4") is kernel("compile", "a100-sxm-80") is None


def test_unfused_attention_pays_for_every_score() -> None:
    def attention(runtime: RuntimeName, length: int) -> float:
        workload = parse_workload(f"fixed:{length}x64")
        return predict_shape(PRESETS["bert-base"], V100, workload, runtime=runtime).parts_s["attention"]

    assert attention("tensorrt", 4096) / attention("tensorrt", 2048) == pytest.approx(4, rel=0.1)
    with pytest.raises(KeyError):
        attention("graph", 2048)


@pytest.mark.parametrize("architecture", [PLAIN, GATED, PRESETS["modernbert-base"].architecture])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_runtimes_run_the_same_products_in_fewer_and_fewer_kernels(
    architecture: Architecture, dtype: str
) -> None:
    by_runtime = {
        name: layer_operators(architecture, runtime.kernels(A100, dtype))
        for name, runtime in RUNTIMES.items()
    }
    products = [{o for o in operators if isinstance(o, Gemm)} for operators in by_runtime.values()]
    assert all(each == products[0] for each in products) and len(products[0]) == 4
    counts = [count_kernels(by_runtime[name]) for name in ("eager", "graph", "compile", "tensorrt")]
    if dtype == "bf16":
        assert counts[0] > counts[1] > counts[3] and counts[0] > counts[2] > counts[3]
    else:
        assert counts[0] == counts[1] > counts[2] >= counts[3]


@pytest.mark.parametrize("preset", ["bert-base", "modernbert-large"])
@pytest.mark.parametrize("gpu", [A100, T4, V100])
def test_large_batches_are_faster_from_runtime_to_runtime(preset: str, gpu: Gpu) -> None:
    workload = parse_workload("fixed:256x128")
    names: list[RuntimeName] = ["eager", "graph", "compile"]
    latencies = [predict_shape(PRESETS[preset], gpu, workload, runtime=name).latency_s for name in names]
    assert np.all(np.diff(latencies) < 0)


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_error_told_is_the_one_that_was_measured(name: RuntimeName) -> None:
    results = Path(__file__).parents[2] / "results" / "encoders.txt"
    _, _, totals = results.read_text(encoding="utf-8").partition("\nruntime    cells")
    found = re.search(rf"^{name} +\d+ +([\d.]+)", totals, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == RUNTIMES[name].end_to_end_error_percent


@pytest.mark.parametrize("gpu", ["p100", "v100"])
def test_unpadding_encoders_bring_their_kernel_where_engines_have_none(gpu: str) -> None:
    workload = parse_workload("fixed:128x8")
    found = predict_shape(PRESETS["modernbert-base"], load_gpu(gpu), workload, runtime="tensorrt")
    eager = predict_shape(PRESETS["modernbert-base"], load_gpu(gpu), workload, runtime="graph")
    assert 0 < found.latency_s < eager.latency_s
