"""A whole encoder's price against its operators, listed one by one."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.runtime import GAP_S_PER_KERNEL, RUNTIMES
from hwsearch.cost.stream import STREAM_TRAINING_FACTOR, StreamKernel, stream_seconds
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import Settings
from hwsearch.shape import PRESETS, EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.space.grid import enumerate_grid
from hwsearch.space.search_space import load_space
from hwsearch.workload import parse_workload

L4 = load_gpu("l4")


def by_operators(shape: EncoderShape, spec: str) -> float:
    """Inference, runtime tensorrt, no head, bf16, of an unpadded gated pre-norm encoder."""
    lengths = np.array(parse_workload(spec).lengths)
    ones = np.ones_like(lengths)
    t, h, i, a = int(lengths.sum()), shape.hidden_size, shape.intermediate_size, shape.num_attention_heads

    gap_s = GAP_S_PER_KERNEL

    def gemm(n: int, k: int) -> float:
        return gap_s + float(gemm_seconds(L4, "bf16", t, n, k))

    def stream(width: int, passes: int, norm: bool = False) -> float:
        kernel: StreamKernel = "layernorm" if norm else "elementwise"
        return gap_s + float(stream_seconds(L4, "bf16", t, width, kernel, passes))

    def attention(window: int | None) -> float:
        return gap_s + float(attention_seconds(L4, "bf16", lengths, ones, a, h // a, window, kernel="engine"))

    total = stream(h, 2) + stream(h, 2, norm=True)
    for layer in range(shape.num_hidden_layers):
        total += gemm(3 * h, h) + gemm(h, h) + gemm(2 * i, h) + gemm(h, i)
        total += attention(
            None if layer % shape.global_attn_every_n_layers == 0 else shape.local_attention // 2
        )
        # Norm with the residual add that it keeps, rotation, product of the activated and the other branch.
        total += 2 * stream(h, 4) + stream(2 * h, 2) + stream(i, 3)
    return total


@pytest.mark.parametrize("spec", ["fixed:512x8", "normal:256,64,32..512x16", "fixed:8192x1", "fixed:1x1"])
def test_an_encoder_is_the_sum_of_its_operators(spec: str) -> None:
    shape = PRESETS["modernbert-base"]
    predicted = predict_shape(shape, L4, parse_workload(spec), runtime="tensorrt")
    assert predicted.latency_s == pytest.approx(by_operators(shape, spec))
    assert sum(predicted.parts_s.values()) == pytest.approx(predicted.device_s)
    assert predicted.tokens_per_s == pytest.approx(parse_workload(spec).tokens / predicted.latency_s)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_grid_costs_what_its_shapes_cost_alone(mode: str, runtime: str) -> None:
    space = load_space("tiny")
    table = enumerate_grid(space.file.shape)
    table = table.take(np.random.default_rng(0).integers(len(table), size=40))
    settings = Settings(mode=mode, runtime=runtime, head="mlm")
    for gpu in space.gpus:
        workload = space.workloads[1]
        together = encoder_time(DistinctLayers(table), gpu, workload, settings).latency
        alone = [
            predict_shape(table.shape(row), gpu, workload, mode=mode, runtime=runtime, head="mlm").latency_s
            for row in range(len(table))
        ]
        assert together == pytest.approx(alone)


def test_padded_models_pay_for_padding_and_unpadding_ones_do_not() -> None:
    variable, full = parse_workload("normal:256,64,32..512x64"), parse_workload("fixed:512x64")
    bert, modern = PRESETS["bert-base"], PRESETS["modernbert-base"]
    assert predict_shape(bert, L4, variable).latency_s == predict_shape(bert, L4, full).latency_s
    share = predict_shape(modern, L4, variable).latency_s / predict_shape(modern, L4, full).latency_s
    assert 0.4 < share < 0.6
    deberta = PRESETS["deberta-v3-base"]
    assert predict_shape(deberta, L4, full).latency_s > 1.3 * predict_shape(bert, L4, full).latency_s


def test_local_layers_grow_with_length_and_global_ones_with_its_square() -> None:
    def parts(length: int) -> dict[str, float]:
        return predict_shape(PRESETS["modernbert-base"], L4, parse_workload(f"fixed:{length}x4")).parts_s

    long, longer = parts(4096), parts(8192)
    assert longer["attention global"] / long["attention global"] == pytest.approx(4, rel=0.15)
    assert longer["attention local"] / long["attention local"] == pytest.approx(2, rel=0.15)


def test_training_adds_gradients_and_the_optimizer() -> None:
    workload, shape = parse_workload("fixed:512x8"), PRESETS["modernbert-base"]
    forward = predict_shape(shape, L4, workload, runtime="compile")
    training = predict_shape(shape, L4, workload, mode="training", runtime="compile")
    assert training.head == "mlm" and training.parts_s["optimizer"] > 28 * 149e6 / L4.bandwidth_bytes_per_s
    for name, seconds in forward.parts_s.items():
        ratio = training.parts_s[name] / seconds
        if "global" in name or "local" in name:
            assert ratio == pytest.approx(1 + BACKWARD_FACTOR, rel=0.02)
        elif "W" in name:
            assert 2.4 < ratio < 4.0
        else:
            assert ratio == pytest.approx(STREAM_TRAINING_FACTOR)


def test_small_eager_batches_wait_for_the_host() -> None:
    small = parse_workload("fixed:16x1")
    eager = predict_shape(PRESETS["modernbert-base"], L4, small, runtime="eager")
    graph = predict_shape(PRESETS["modernbert-base"], L4, small, runtime="graph")
    assert graph.latency_s == graph.device_s < eager.device_s
    assert eager.latency_s > 2 * eager.device_s
    large = parse_workload("fixed:512x256")
    # A large one waits for nothing; the weights' casts are all that eager adds.
    assert predict_shape(PRESETS["modernbert-base"], L4, large, runtime="eager").latency_s == pytest.approx(
        predict_shape(PRESETS["modernbert-base"], L4, large, runtime="graph").latency_s, rel=0.01
    )


def test_a_dtype_the_gpu_lacks_is_an_error() -> None:
    with pytest.raises(HwsearchError, match=r"t4 has no bf16; it has fp16"):
        predict_shape(PRESETS["bert-base"], load_gpu("t4"), parse_workload("fixed:8x1"), dtype="bf16")
    assert predict_shape(PRESETS["bert-base"], load_gpu("t4"), parse_workload("fixed:8x1")).dtype == "fp16"


def test_tables_of_one_architecture_only() -> None:
    with pytest.raises(ValueError):
        ShapeTable.of([PRESETS["bert-base"], PRESETS["modernbert-base"]])


def test_recomputation_runs_the_layers_once_more() -> None:
    workload, shape = parse_workload("fixed:512x8"), PRESETS["modernbert-base"]
    forward = predict_shape(shape, L4, workload).parts_s
    training = predict_shape(shape, L4, workload, mode="training")
    again = predict_shape(shape, L4, workload, mode="training", recompute=True)
    assert again.peak_bytes < 0.7 * training.peak_bytes
    for name, seconds in training.parts_s.items():
        once_more = forward[name] if name not in ("embedding", "head", "optimizer") else 0.0
        assert again.parts_s[name] == pytest.approx(seconds + once_more), name
