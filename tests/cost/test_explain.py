"""An explanation against the prediction that it explains, and its labels on cases that are known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from hwsearch.cost.explain import Explanation, OperatorTime, explain
from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.calibration import Evidence, GemmConstants
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.report.explain import explanation_text, titles
from hwsearch.settings import Head, Mode, RuntimeName
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.parameters import masked_lm_parameters
from hwsearch.workload import parse_workload

L4 = load_gpu("l4")
WIDE = parse_shape("L2-h8192-a64-i16384")


def explained(
    shape: EncoderShape,
    gpu: Gpu = L4,
    spec: str = "fixed:512x16",
    dtype: str | None = None,
    mode: Mode = "inference",
    runtime: RuntimeName = "graph",
    head: Head | None = None,
    recompute: bool = False,
) -> tuple[Prediction, Explanation]:
    workload = parse_workload(spec)
    prediction = predict_shape(
        shape, gpu, workload, dtype=dtype, mode=mode, runtime=runtime, head=head, recompute=recompute
    )
    return prediction, explain(prediction, shape, gpu, workload)


def assert_adds_up(prediction: Prediction, explanation: Explanation) -> None:
    parts: dict[str, float] = defaultdict(float)
    for operator in explanation.operators:
        parts[operator.part] += operator.seconds
    for name, seconds in prediction.parts_s.items():
        assert parts.pop(name, 0.0) == pytest.approx(seconds, rel=1e-9), name
    assert not parts
    assert sum(o.share for o in explanation.operators) == pytest.approx(1)
    seconds = [o.seconds for o in explanation.operators]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("mode", "recompute"), [("inference", False), ("training", False), ("training", True)]
)
def test_operators_are_the_prediction_taken_apart(preset: str, mode: Mode, recompute: bool) -> None:
    for head in ("none", "mlm"):
        assert_adds_up(*explained(PRESETS[preset], mode=mode, recompute=recompute, head=head))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "tf32", "fp32"])
def test_so_it_is_for_every_runtime_and_dtype(runtime: RuntimeName, dtype: str) -> None:
    for spec in ("fixed:512x16", "normal:256,64,32..512x16", "fixed:1x1"):
        prediction, explanation = explained(
            PRESETS["modernbert-base"], runtime=runtime, dtype=dtype, spec=spec, head="mlm"
        )
        assert_adds_up(prediction, explanation)
        shown = explanation_text(explanation, prediction, L4)
        assert all(title in shown for title in titles(explanation.operators))


def test_products_and_rates_of_a_layer_counted_by_hand() -> None:
    _, explanation = explained(PRESETS["modernbert-large"], spec="fixed:512x64", mode="training")
    tokens, h, i = 512 * 64, 1024, 2624
    products = {(o.part, o.kernel): o for o in explanation.operators if o.sizes and o.part != "head"}
    assert {key: o.sizes for key, o in products.items() if key[0] == "feed-forward Wi"} == {
        ("feed-forward Wi", "product"): (tokens, 2 * i, h),
        ("feed-forward Wi", "data gradient"): (tokens, h, 2 * i),
        ("feed-forward Wi", "weight gradient"): (2 * i, h, tokens),
    }
    assert len(products) == 4 * 3 and {o.runs for o in products.values()} == {28}
    wi = products["feed-forward Wi", "product"]
    assert wi.flops_per_s * wi.seconds == pytest.approx(28 * 2 * tokens * 2 * i * h)
    assert wi.bytes_per_s * wi.seconds == pytest.approx(28 * 2 * (tokens * h + 2 * i * h + tokens * 2 * i))
    assert wi.flops_share == pytest.approx(wi.flops_per_s / L4.dense_flops_per_s["bf16"])
    _, again = explained(PRESETS["modernbert-large"], spec="fixed:512x64", mode="training", recompute=True)
    runs = {(o.part, o.kernel): o.runs for o in again.operators if o.sizes and o.part == "attention Wo"}
    assert list(runs.values()) == [56, 28, 28] and runs["attention Wo", "product"] == 56


def test_attention_sees_its_window() -> None:
    _, explanation = explained(parse_shape("L2-h768-a12-i1152-g2"), spec="fixed:4096x1")
    by_part = {o.part: o for o in explanation.operators}
    # A row sees 64 keys to each side and itself; 64 x 65 pairs are missing at the ends.
    pairs = 4096 * 129 - 64 * 65
    local, everywhere = by_part["attention local"], by_part["attention global"]
    assert local.flops_per_s * local.seconds == pytest.approx(4 * pairs * 768)
    assert everywhere.flops_per_s * everywhere.seconds == pytest.approx(4 * 4096**2 * 768)
    assert local.bytes_per_s * local.seconds == pytest.approx(2 * 4 * 4096 * 768)


def with_gemm(**changed: float) -> Gpu:
    """An L4 whose products have plain constants, some of them `changed`."""
    constants = GemmConstants(
        floor_s=1e-6,
        block_overhead_s=1e-7,
        tile_overhead_s=1e-7,
        step_latency_s=1e-8,
        split_s=1e-6,
        compute_fraction=0.9,
        sustained_fraction=1.0,
        bandwidth_fraction=0.9,
        cached_speedup=1.0,
        evidence=Evidence("fitted", "constructed", 1),
    )
    gemm = {**L4.calibration.gemm, "bf16": replace(constants, **changed)}
    return replace(L4, calibration=replace(L4.calibration, gemm=gemm))


def products(explanation: Explanation) -> list[OperatorTime]:
    return [o for o in explanation.operators if o.sizes]


@pytest.mark.parametrize(
    ("shape", "spec", "gpu", "bound"),
    [
        (WIDE, "fixed:4x1", with_gemm(), "memory"),
        (WIDE, "fixed:512x16", with_gemm(), "compute"),
        (WIDE, "fixed:512x16", with_gemm(sustained_fraction=0.5), "power"),
        (parse_shape("L2-h256-a4-i512"), "fixed:32x1", with_gemm(step_latency_s=1e-4), "latency"),
        (parse_shape("L2-h256-a4-i512"), "fixed:32x1", with_gemm(floor_s=1e-3), "overhead"),
    ],
)
def test_what_bounds_products(shape: EncoderShape, spec: str, gpu: Gpu, bound: str) -> None:
    _, explanation = explained(shape, gpu, spec)
    assert {o.bound for o in products(explanation)} == {bound}


def test_tiny_batches_read_weights_and_large_ones_multiply() -> None:
    _, tiny = explained(WIDE, with_gemm(), "fixed:4x1")
    _, large = explained(WIDE, with_gemm(), "fixed:512x16")
    assert all(o.bytes_share > 0.8 and o.flops_share < 0.1 for o in products(tiny))
    assert all(o.flops_share > 0.7 and o.bytes_share < 0.5 for o in products(large))
    for o in products(large):
        assert o.sizes and o.variant
        tiles = np.ceil(o.sizes[0] / o.variant.tile_m) * np.ceil(o.sizes[1] / o.variant.tile_n)
        assert o.variant.waves == np.ceil(tiles * o.variant.split_k / L4.sms)


def test_passes_over_large_tensors_are_bound_by_memory_and_over_small_ones_by_overhead() -> None:
    for spec, bound in (("fixed:512x64", "memory"), ("fixed:1x1", "overhead")):
        _, explanation = explained(PRESETS["bert-large"], spec=spec)
        passes = {o.part: o for o in explanation.operators if o.kernel == "passes"}
        assert passes["feed-forward activation"].bound == bound


def test_small_eager_batches_are_bound_by_launches() -> None:
    shape = PRESETS["bert-base"]
    prediction, eager = explained(shape, spec="fixed:128x1", runtime="eager")
    assert eager.bound == "launches" and eager.host_s == prediction.latency_s
    assert eager.launches * RUNTIMES["eager"].host_s_per_kernel == pytest.approx(eager.host_s)
    text = explanation_text(eager, prediction, L4)
    assert "The host's launches bound the whole" in text and f"{eager.launches:,} launches" in text
    # Width is free until the GPU's work takes as long.
    assert {n.field for n in eager.neighbours if n.reason == "costs nothing"} == {
        "intermediate_size",
        "hidden_size",
    }
    prediction, graph = explained(shape, spec="fixed:128x1")
    assert (graph.bound, graph.launches, graph.host_s) == ("device", 0, 0)
    assert "the GPU's work sets the latency" in explanation_text(graph, prediction, L4)
    prediction, large = explained(shape, spec="fixed:512x64", runtime="eager")
    assert large.bound == "device" and 0 < large.host_s < prediction.latency_s


@pytest.mark.parametrize("preset", ["modernbert-large", "bert-base", "eurobert-610m"])
@pytest.mark.parametrize("spec", ["fixed:512x64", "fixed:128x1"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_neighbour_gains_what_its_own_prediction_says(preset: str, spec: str, mode: Mode) -> None:
    shape = PRESETS[preset]
    now, explanation = explained(shape, spec=spec, mode=mode)
    assert {n.field for n in explanation.neighbours} == {"intermediate_size", "hidden_size"}
    for n in explanation.neighbours:
        other = parse_shape(n.shape)
        then = predict_shape(other, L4, parse_workload(spec), mode=mode)
        assert n.latency_s == pytest.approx(then.latency_s, rel=1e-12)
        assert n.latency_change == pytest.approx(then.latency_s / now.latency_s - 1, abs=1e-12)
        assert n.flops_change == pytest.approx(then.flops / now.flops - 1)
        assert n.parameters_change == masked_lm_parameters(other) / masked_lm_parameters(shape) - 1
        assert n.value == getattr(other, n.field) and other.head_size == shape.head_size
        groups = [each.num_attention_heads / each.key_value_heads for each in (shape, other)]
        assert groups[0] == groups[1]
        same = {"hidden_size": shape.intermediate_size, "intermediate_size": shape.hidden_size}
        kept = "intermediate_size" if n.field == "hidden_size" else "hidden_size"
        assert getattr(other, kept) == same[n.field]


def test_the_nearest_faster_one_is_the_nearest() -> None:
    shape, workload = parse_shape("L4-h512-a8-i1500"), parse_workload("fixed:256x3")
    now, explanation = explained(shape, spec="fixed:256x3")
    told = {n.reason: n for n in explanation.neighbours if n.field == "intermediate_size"}
    sizes = range(1472, 1100, -64)
    faster = [
        size
        for size in sizes
        if predict_shape(replace(shape, intermediate_size=size), L4, workload).latency_s
        < (1 - 1e-3) * now.latency_s
    ]
    assert "nearest faster" in told or "saves more than its share" in told
    nearest = [n.value for reason, n in told.items() if n.change < 0]
    assert max(nearest) == faster[0]


def test_a_wave_less_saves_more_than_its_share() -> None:
    """Long waves and free memory: time goes by whole waves of tiles."""
    gpu = replace(with_gemm(block_overhead_s=1e-3), bandwidth_bytes_per_s=1e18)
    shape = parse_shape("L8-h768-a12-i2048")
    now, explanation = explained(shape, gpu, "fixed:512x8")
    told = [n for n in explanation.neighbours if n.reason == "saves more than its share"]
    assert told and all(n.latency_change < n.trend_change < 0 for n in told)
    for n in explanation.neighbours:
        if n.reason == "costs nothing":
            assert n.change > 0 and n.latency_s <= now.latency_s * (1 + 1e-3)


def test_sources_are_those_of_the_dtype() -> None:
    _, explanation = explained(PRESETS["bert-base"], dtype="fp16", runtime="tensorrt")
    assert [s.block for s in explanation.sources] == ["gemm fp16", "attention fp16", "stream"]
    assert explanation.sources[0].evidence == L4.calibration.gemm["fp16"].evidence
    assert explanation.end_to_end_error_percent == RUNTIMES["tensorrt"].end_to_end_error_percent


def test_sources_are_those_of_the_attention_that_runs() -> None:
    def told(runtime: RuntimeName, dtype: str = "bf16") -> dict[str, Evidence]:
        _, explanation = explained(PRESETS["bert-base"], runtime=runtime, dtype=dtype)
        return {source.block: source.evidence for source in explanation.sources}

    assert told("graph")["attention bf16"] is L4.calibration.attention["bf16"].evidence
    assert "arxiv.org/abs/2307.08691" in told("tensorrt")["attention bf16"].data
    # Stored scores: batched products and passes, no fused kernel.
    assert list(told("graph", "fp32")) == ["gemm fp32", "stream"]
