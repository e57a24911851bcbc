"""Operator tables against the functions that price one operator, called one row at a time."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.cost.attention import attention_rows_seconds, attention_seconds
from hwsearch.cost.eager import HOST_TIME, eager_seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.interval import operator_interval
from hwsearch.cost.operators import OPERATORS, Variant
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.stream import stream_seconds
from hwsearch.cost.tables import predict_table
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import BYTES_PER_ELEMENT

L4 = load_gpu("l4")
HEADER = "op,m,n,k,b,batch_size,seq_len,num_heads,head_dim,rows,cols,causal,window,kernel,gpu,dtype,runtime"


def answers(folder: Path, text: str, **flags: str) -> list[dict[str, str]]:
    path = folder / "table.csv"
    path.write_text(text)
    return list(csv.DictReader(io.StringIO(predict_table(path, L4, **flags))))


def row(**cells: object) -> str:
    return ",".join(str(cells.get(name, "")) for name in HEADER.split(","))


def seconds(answer: dict[str, str]) -> float:
    return float(answer["predicted_ms"]) / 1e3


def test_each_row_costs_what_its_operator_costs(tmp_path: Path) -> None:
    attention = dict(op="attention", batch_size=8, seq_len=600, num_heads=12, head_dim=64)
    gpu, sizes = load_gpu("t4"), dict(m=300, n=768, k=96)
    cases = [
        (row(op="gemm", **sizes), gemm_seconds(L4, "bf16", 300, 768, 96)),
        (row(op="gemm", **sizes, gpu="t4"), gemm_seconds(gpu, "fp16", 300, 768, 96)),
        (
            row(op="gemm", **sizes, gpu="t4", dtype="fp32"),
            gemm_seconds(gpu, "fp32", 300, 768, 96, in_a_loop=True),
        ),
        (row(**attention), attention_seconds(L4, "bf16", [600], [8], 12, 64)),
        (
            row(**attention, causal=1),
            attention_rows_seconds(L4, "bf16", 8, 600, 12, 64, causal=True, prefill=True),
        ),
        (
            row(**attention, causal=1, window=64),
            attention_seconds(L4, "bf16", [600], [8], 12, 64, window=64, causal=True),
        ),
        (row(**attention, window=64), attention_seconds(L4, "bf16", [600], [8], 12, 64, window=64)),
        (row(**attention, window=-1, dtype="fp32"), attention_seconds(L4, "fp32", [600], [8], 12, 64)),
        (row(op="gelu", rows=5000, cols=3072), stream_seconds(L4, "bf16", 5000, 3072, "gelu")),
        (row(op="add", rows=5000, cols=3072), stream_seconds(L4, "bf16", 5000, 3072, passes=3)),
        (row(op="layernorm", rows=5000, cols=3072), stream_seconds(L4, "bf16", 5000, 3072, "layernorm")),
    ]
    found = answers(tmp_path, "\n".join([HEADER, *(text for text, _ in cases)]))
    for answer, (text, expected) in zip(found, cases, strict=True):
        assert seconds(answer) == pytest.approx(float(expected), rel=1e-5), text


def test_a_window_and_a_mask_make_long_attention_cheaper(tmp_path: Path) -> None:
    attention = dict(op="attention", batch_size=4, seq_len=8192, num_heads=16, head_dim=64)
    variants = [{}, {"causal": 1}, {"window": 128}, {"causal": "true", "window": 128}]
    full, causal, window, both = (
        seconds(a) for a in answers(tmp_path, "\n".join([HEADER, *(row(**attention, **v) for v in variants)]))
    )
    assert both < window < causal < 0.7 * full


def test_flags_hold_where_the_table_is_silent(tmp_path: Path) -> None:
    text = "\n".join([HEADER, row(op="gemm", m=8, n=8, k=8), row(op="gemm", m=8, n=8, k=8, runtime="graph")])
    eager, graph = answers(tmp_path, text, runtime="eager", dtype="fp32")
    device = float(gemm_seconds(L4, "fp32", 8, 8, 8, in_a_loop=True))
    assert seconds(graph) == pytest.approx(device, rel=1e-5)
    assert seconds(eager) == pytest.approx(float(eager_seconds(device, HOST_TIME["gemm"])), rel=1e-5)
    assert seconds(eager) > 50e-6


def test_a_long_kernel_does_not_wait_for_its_launch(tmp_path: Path) -> None:
    text = f"{HEADER}\n" + "\n".join(row(op="gemm", m=8192, n=8192, k=8192, runtime=r) for r in RUNTIMES)
    found = [seconds(answer) for answer in answers(tmp_path, text)]
    assert max(found) < 1.002 * min(found)


def test_the_interval_and_the_calibration_stand_beside_the_number(tmp_path: Path) -> None:
    (answer,) = answers(tmp_path, f"{HEADER}\n{row(op='gemm', m=512, n=512, k=512)}\n")
    low, high = operator_interval(L4, "bf16", "gemm", Variant())
    assert low < 1 < high
    assert float(answer["predicted_ms_low"]) == pytest.approx(float(answer["predicted_ms"]) * low, rel=1e-4)
    assert float(answer["predicted_ms_high"]) == pytest.approx(float(answer["predicted_ms"]) * high, rel=1e-4)
    assert answer["calibration"] == L4.calibration.gemm["bf16"].evidence.kind


SIZE = st.integers(1, 4096)
SIZES = {
    "gemm": st.fixed_dictionaries({"m": SIZE, "n": SIZE, "k": SIZE}),
    "bmm": st.fixed_dictionaries({"b": SIZE, "m": SIZE, "n": SIZE, "k": SIZE}),
    "attention": st.fixed_dictionaries(
        {
            "batch_size": SIZE,
            "seq_len": SIZE,
            "num_heads": st.integers(1, 64),
            "head_dim": st.integers(8, 256),
        }
        | {"causal": st.sampled_from(["", 0, 1]), "window": st.sampled_from(["", -1, 0, 64, 300])}
    ),
}
SIZES |= {op: st.fixed_dictionaries({"rows": SIZE, "cols": SIZE}) for op in OPERATORS if op not in SIZES}
WHERE = st.fixed_dictionaries(
    {"gpu": st.sampled_from(["", "t4", "a100-sxm-80"]), "dtype": st.sampled_from(["", "fp32", "fp16"])}
    | {"runtime": st.sampled_from(["", *RUNTIMES])}
)
ROW = st.sampled_from(sorted(OPERATORS)).flatmap(
    lambda op: st.builds(lambda sizes, where: row(op=op, **sizes, **where), SIZES[op], WHERE)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_neither_order_nor_neighbours_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], order: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("table")
    together = answers(folder, "\n".join([HEADER, *rows]))
    shuffled = order.sample(range(len(rows)), len(rows))
    again = answers(folder, "\n".join([HEADER, *(rows[i] for i in shuffled)]))
    alone = [answers(folder, f"{HEADER}\n{text}")[0] for text in rows[:5]]
    pairs = [*zip(again, (together[i] for i in shuffled), strict=True), *zip(alone, together, strict=False)]
    for one, many in pairs:
        assert seconds(one) == pytest.approx(seconds(many), rel=2e-6)
        assert {k: v for k, v in one.items() if "ms" not in k} == {
            k: v for k, v in many.items() if "ms" not in k
        }


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(op="conv", m=1), "table.csv:3: column op: found 'conv'; accepted: gemm, bmm, attention"),
        (row(m=1), "table.csv:3: column op: found an empty cell; accepted: gemm"),
        (
            row(op="gemm", m=1, n=2),
            "table.csv:3: column k: found an empty cell; accepted: a whole number from 1",
        ),
        (row(op="gemm", m=1, n=2, k=0), "column k: found '0'"),
        (row(op="gemm", m=1, n=-2, k=3), "column n: found '-2'"),
        (row(op="gemm", m="nan", n=2, k=3), "column m: found 'nan'"),
        (row(op="gemm", m="1.5", n=2, k=3), "column m: found '1.5'"),
        (row(op="gemm", m=10**30, n=2, k=3), "column m: found '1000000000000000000000000000000'; accepted"),
        (
            row(op="gemm", m=1, n=2, k=3, gpu="h300"),
            "table.csv:3: column gpu: no GPU profile is called 'h300'",
        ),
        (
            row(op="gemm", m=1, n=2, k=3, dtype="int8"),
            "column dtype: found 'int8'; accepted: bf16, fp16, tf32",
        ),
        (
            row(op="gelu", rows=1, cols=3, gpu="t4", dtype="bf16"),
            "table.csv:3: dtype: t4 has no bf16; it has",
        ),
        (row(op="gemm", m=1, n=2, k=3, runtime="onnx"), "column runtime: found 'onnx'; accepted: eager"),
        (
            row(op="attention", batch_size=1, seq_len=5, num_heads=2, head_dim=64, kernel="fa9"),
            "column kernel: found 'fa9'; accepted: an empty cell, fa2",
        ),
        (
            row(op="attention", batch_size=1, seq_len=5, num_heads=2, head_dim=64, causal="maybe"),
            "column causal: found 'maybe'; accepted: 0, 1",
        ),
        (
            row(op="attention", batch_size=1, seq_len=5, num_heads=2, head_dim=64, window=-2),
            "column window: found '-2'",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad: str, said: str) -> None:
    good = row(op="gemm", m=1, n=2, k=3)
    with pytest.raises(HwsearchError) as caught:
        answers(tmp_path, "\n".join([HEADER, good, bad, good]))
    assert said in str(caught.value)


def test_a_column_that_an_operator_needs_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HwsearchError) as caught:
        answers(tmp_path, "op,m,n,k\ngemm,1,2,3\nadd,1,2,3\n")
    said = "table.csv:3: op add needs the column rows; required: rows, cols; found: op, m, n, k"
    assert said in str(caught.value)


def test_the_largest_sizes_have_a_finite_price(tmp_path: Path) -> None:
    rows = []
    for op, operator in OPERATORS.items():
        rows.append(row(op=op, **operator.columns))
    for answer in answers(tmp_path, "\n".join([HEADER, *rows])):
        assert 0 < seconds(answer) < float("inf"), answer["op"]


def test_bytes_of_an_element_decide_a_stream(tmp_path: Path) -> None:
    rows = [row(op="add", rows=100_000, cols=4096, dtype=dtype) for dtype in ("bf16", "fp32")]
    half, full = (seconds(a) for a in answers(tmp_path, "\n".join([HEADER, *rows])))
    ratio = BYTES_PER_ELEMENT["fp32"] / BYTES_PER_ELEMENT["bf16"]
    assert full / half == pytest.approx(ratio, rel=0.02)
