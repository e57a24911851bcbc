"""Peak memory against what transformers' own modules hold, and the batch that fits."""

from __future__ import annotations

import pytest

from hwsearch.cost.memory import CONTEXT_BYTES, encoder_memory
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import Settings
from hwsearch.shape import PRESETS, EncoderShape
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import parse_workload

LARGE = ShapeTable.of([PRESETS["modernbert-large"]])


def peak(table: ShapeTable, spec: str, dtype: str = "bf16", **settings: str) -> float:
    return float(encoder_memory(table, parse_workload(spec), Settings(**settings), dtype).peak_bytes[0])


def test_weights_and_optimizer_states() -> None:
    """A single token's activations are nothing beside the weights."""
    assert peak(LARGE, "fixed:1x1") == pytest.approx(CONTEXT_BYTES + 2 * 394_781_696, rel=1e-3)
    assert peak(LARGE, "fixed:1x1", "fp32") == pytest.approx(CONTEXT_BYTES + 4 * 394_781_696, rel=1e-3)
    training = peak(LARGE, "fixed:1x1", mode="training", head="mlm")
    assert training == pytest.approx(CONTEXT_BYTES + 16 * 395_881_664, rel=1e-3)


def test_inference_keeps_one_layer_and_training_all() -> None:
    def per_token(layers: int, **settings: str) -> float:
        shape = EncoderShape(
            num_hidden_layers=layers, hidden_size=1024, num_attention_heads=16, intermediate_size=2624
        )
        table = ShapeTable.of([shape])
        return (peak(table, "fixed:512x80", **settings) - peak(table, "fixed:512x40", **settings)) / (
            512 * 40
        )

    assert per_token(8) == pytest.approx(per_token(16))
    assert per_token(16, mode="training") == pytest.approx(2 * per_token(8, mode="training"), rel=0.02)


def test_the_largest_batch_is_the_last_that_fits() -> None:
    gpu = load_gpu("t4")
    spec = "fixed:512x{}"
    for settings in ({}, {"mode": "training", "head": "mlm"}):
        memory = encoder_memory(LARGE, parse_workload(spec.format(16)), Settings(**settings), "fp16")
        fits = int(memory.largest_batch(gpu, parse_workload(spec.format(16)))[0])
        assert fits > 0
        assert peak(LARGE, spec.format(fits), "fp16", **settings) <= gpu.memory_bytes
        assert peak(LARGE, spec.format(fits + 1), "fp16", **settings) > gpu.memory_bytes


def test_weights_that_do_not_fit_leave_no_batch() -> None:
    shape = EncoderShape(
        num_hidden_layers=80, hidden_size=8192, num_attention_heads=64, intermediate_size=28672
    )
    workload = parse_workload("fixed:512x1")
    memory = encoder_memory(ShapeTable.of([shape]), workload, Settings(), "fp16")
    assert memory.largest_batch(load_gpu("t4"), workload)[0] == 0
