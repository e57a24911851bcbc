"""Peak memory against torch's own account of saved and living storages, and the batch that fits."""

from __future__ import annotations

import pytest

from hwsearch.cost.memory import CONTEXT_BYTES, encoder_memory
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import Settings
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import parse_workload

LARGE = ShapeTable.of([PRESETS["modernbert-large"]])
TRAINING = {"mode": "training", "head": "mlm"}


def peak(table: ShapeTable, spec: str, dtype: str = "bf16", **settings: str | bool) -> float:
    return float(encoder_memory(table, parse_workload(spec), Settings(**settings), dtype).peak_bytes[0])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("code", "notation"),
    [
        ("ours", "L4-h256-a4-i384-v2048-g1"),
        ("ours", "L4-h256-a4-i1024-v2048-g3"),
        ("ours", "+norm_order=post+initial_plain_layers=2:L4-h256-a4-i1024-v2048-g3"),
        ("mixed", "L4-h256-a4-i384-v2048-g1"),
        ("transformers", "L4-h256-a4-i1024-v2048-g3"),
        ("transformers", "bert:L4-h256-a4-i1024-v2048-p256"),
        ("transformers", "roberta:L3-h256-a4-i1024-v2048-p256"),
        ("transformers", "deberta-v3:L3-h256-a4-i1024-v2048-p256"),
    ],
)
def test_bytes_are_those_that_torch_counts(code: str, notation: str, dtype: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from memory_subjects import MEASURES, subject

    for name, measure in MEASURES.items():
        counted, predicted = measure(subject(code, notation), notation, dtype)
        assert predicted == pytest.approx(counted, rel=0.05), name


def test_weights_and_optimizer_states() -> None:
    """A single token's activations are nothing beside the weights."""
    assert peak(LARGE, "fixed:1x1") == pytest.approx(CONTEXT_BYTES + 2 * 394_781_696, rel=1e-3)
    assert peak(LARGE, "fixed:1x1", "fp32") == pytest.approx(CONTEXT_BYTES + 4 * 394_781_696, rel=1e-3)
    # The decoder's share of the tied gradient waits; autocast adds a bf16 copy of the layers' matrices.
    waiting, matrices = 4 * 51_576_832, 28 * (4 * 1024**2 + 3 * 1024 * 2624)
    training = peak(LARGE, "fixed:1x1", "fp32", **TRAINING)
    assert training == pytest.approx(CONTEXT_BYTES + 16 * 395_881_664 + waiting, rel=1e-3)
    autocast = peak(LARGE, "fixed:1x1", "bf16", **TRAINING)
    assert autocast - training == pytest.approx(2 * matrices, rel=0.01)


def test_inference_keeps_one_layer_training_all_and_recomputation_their_inputs() -> None:
    def per_token(layers: int, **settings: str | bool) -> float:
        shape = EncoderShape(
            num_hidden_layers=layers, hidden_size=1024, num_attention_heads=16, intermediate_size=2624
        )
        table = ShapeTable.of([shape])
        return (peak(table, "fixed:512x80", **settings) - peak(table, "fixed:512x40", **settings)) / (
            512 * 40
        )

    assert per_token(8) == pytest.approx(per_token(16))
    per_layer = (per_token(24, mode="training") - per_token(12, mode="training")) / 12
    # bf16: ten hidden states' width but the two float32 norm inputs, and four of the feed-forward's.
    assert per_layer == pytest.approx(2 * (8 * 1024 + 4 * 2624) + 4 * 2 * 1024, rel=0.1)
    recompute = {"mode": "training", "recompute": True}
    assert (per_token(24, **recompute) - per_token(12, **recompute)) / 12 == pytest.approx(4 * 1024)


@pytest.mark.parametrize(
    "settings", [{}, TRAINING, {**TRAINING, "recompute": True}], ids=["inference", "training", "recompute"]
)
@pytest.mark.parametrize("name", ["modernbert-large", "deberta-v3-base"])
def test_the_largest_batch_is_the_last_that_fits(name: str, settings: dict[str, str | bool]) -> None:
    gpu, spec, table = load_gpu("t4"), "fixed:512x{}", ShapeTable.of([PRESETS[name]])
    memory = encoder_memory(table, parse_workload(spec.format(16)), Settings(**settings), "fp16")
    fits = int(memory.largest_batch(gpu, parse_workload(spec.format(16)))[0])
    assert fits > 0
    assert peak(table, spec.format(fits), "fp16", **settings) <= gpu.memory_bytes
    # Masked positions are counted whole, so the next batch may miss by one of them.
    assert peak(table, spec.format(fits + 1), "fp16", **settings) > gpu.memory_bytes * 0.999


def test_weights_that_do_not_fit_leave_no_batch() -> None:
    shape = EncoderShape(
        num_hidden_layers=80, hidden_size=8192, num_attention_heads=64, intermediate_size=28672
    )
    workload = parse_workload("fixed:512x1")
    memory = encoder_memory(ShapeTable.of([shape]), workload, Settings(), "fp16")
    assert memory.largest_batch(load_gpu("t4"), workload)[0] == 0


def test_stored_scores_grow_with_the_square_of_the_length() -> None:
    """Two score matrices of every head, which flash attention never stores."""
    table = ShapeTable.of([parse_shape("bert-base")])
    long, flash = peak(table, "fixed:4096x4", attention="math"), peak(table, "fixed:4096x4")
    assert long - flash == pytest.approx(2 * 2 * 12 * 4096**2 * 4, rel=0.05)
    with pytest.raises(HwsearchError, match="recomputation is for training"):
        Settings(recompute=True)
