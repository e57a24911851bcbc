"""The ModernBERT paper's protocol: who pays for padding, for stored scores and for which dtype."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.protocol import ENTRIES, ProtocolRow, drawn_batches, protocol_rows
from hwsearch.gpu.catalog import load_gpu
from hwsearch.shape import PRESETS
from hwsearch.workload import parse_workload

GPU = load_gpu("rtx4090")
# The largest batches of 512 and 8192 that ran, arXiv 2412.13663, Table 2.
PUBLISHED_BATCHES = {
    "bert-base": (1096, None),
    "roberta-base": (664, None),
    "deberta-v3-base": (236, None),
    "nomic-bert": (588, 36),
    "gte-en-mlm-base": (640, 38),
    "gte-en-mlm-base unpadded": (640, 38),
    "modernbert-base": (1604, 98),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, ProtocolRow]:
    return {row.encoder: row for row in protocol_rows(list(ENTRIES), GPU)}


def test_lengths_are_those_of_the_papers_notebooks() -> None:
    batches = drawn_batches(8192, 32)
    lengths = [length for batch in batches for length in batch.lengths]
    assert len(lengths) == 512 and all(batch.padded_length == 8192 for batch in batches)
    assert min(lengths) >= 32 and np.mean(lengths) == pytest.approx(4096, abs=200)


def test_padding_is_paid_for_unless_an_encoder_unpads(rows: dict[str, ProtocolRow]) -> None:
    for name, row in rows.items():
        share = row.short.variable_tokens_per_s / row.short.fixed_tokens_per_s
        if "unpadded" in name or "modernbert" in name:
            assert share > 0.9, name
        else:
            assert share == pytest.approx(0.5, abs=0.01), name
    with_padding, without = rows["gte-en-mlm-base"], rows["gte-en-mlm-base unpadded"]
    assert with_padding.short.fixed_tokens_per_s == without.short.fixed_tokens_per_s
    assert without.long is not None and with_padding.long is not None
    # Shorter sequences also attend less.
    assert without.long.variable_tokens_per_s > 2 * with_padding.long.variable_tokens_per_s


def test_the_encoders_fall_in_the_papers_order(rows: dict[str, ProtocolRow]) -> None:
    names = ("bert-base", "nomic-bert", "deberta-v3-base")
    speeds = [rows[name].short.fixed_tokens_per_s for name in names]
    assert speeds == sorted(speeds, reverse=True)
    for size in ("base", "large"):
        modern, gte = rows[f"modernbert-{size}"].long, rows[f"gte-en-mlm-{size} unpadded"].long
        assert modern is not None and gte is not None
        assert modern.fixed_tokens_per_s > 1.6 * gte.fixed_tokens_per_s


def test_batches_are_near_those_that_ran(rows: dict[str, ProtocolRow]) -> None:
    for name, (short, long) in PUBLISHED_BATCHES.items():
        assert 0.7 < rows[name].short.largest_batch / short < 1.3, name
        if long is not None:
            found = rows[name].long
            assert found is not None and 0.9 < found.largest_batch / long < 1.2, name


def test_mixed_dtypes_lie_between_their_own() -> None:
    """bf16 attention among float32 products: slower than all in bf16, faster than all in float32."""
    short = parse_workload("fixed:512x512")
    seconds = {
        dtype: predict_shape(PRESETS["modernbert-base"], GPU, short, dtype=dtype, runtime="compile").latency_s
        for dtype in ("fp32", "bf16")
    }
    (row,) = protocol_rows(["modernbert-base"], GPU)
    mixed = short.tokens / row.short.fixed_tokens_per_s
    assert seconds["bf16"] < mixed < 1.05 * seconds["fp32"]
    assert (row.dtype, row.attention) == ("fp32", "bf16 flash")


def test_disentangled_attention_costs_its_score_matrices() -> None:
    parts = predict_shape(
        PRESETS["deberta-v3-base"], GPU, parse_workload("fixed:512x224"), dtype="fp32", runtime="eager"
    ).parts_s
    # 22 passes over float32 scores of 12 layers, at no more than the memory's bandwidth.
    scores = 4 * 224 * 12 * 512**2
    assert parts["disentangled attention"] > 12 * 22 * scores / GPU.bandwidth_bytes_per_s
