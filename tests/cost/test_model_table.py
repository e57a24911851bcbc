"""Model tables against their operators, listed layer by layer, and against the same encoders as shapes."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.cost.attention import attention_seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.runtime import GAP_S_PER_KERNEL, RUNTIMES
from hwsearch.cost.stream import stream_seconds
from hwsearch.cost.tables import predict_table
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.shape import parse_shape
from hwsearch.workload import parse_workload

L4 = load_gpu("l4")
REQUIRED = "layers,hidden,heads,ffn,batch,seq"
HEADER = f"{REQUIRED},head_dim,glu,vocab,causal,global_every,window,gpu,dtype,runtime"


def answers(folder: Path, rows: list[str], header: str = HEADER, **flags: str) -> list[dict[str, str]]:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]))
    return list(csv.DictReader(io.StringIO(predict_table(path, L4, **flags))))


def row(**cells: object) -> str:
    return ",".join(str(cells.get(name, "")) for name in HEADER.split(","))


def seconds(answer: dict[str, str]) -> float:
    return float(answer["predicted_ms"]) / 1e3


def layer_by_layer(
    hidden: int, heads: list[int], head_dim: int, ffn: list[int], batch: int, seq: int,
    *, glu: bool = False, causal: bool = False, windows: list[int | None] | None = None, vocab: int = 0,
) -> float:  # fmt: skip
    """Runtime graph, bf16, on an L4."""
    tokens = batch * seq

    def gemm(n: int, k: int) -> float:
        return gap_s + float(gemm_seconds(L4, "bf16", tokens, n, k))

    def stream(width: int, passes: float, norm: bool = False) -> float:
        return gap_s + float(
            stream_seconds(L4, "bf16", tokens, width, "layernorm" if norm else "elementwise", passes)
        )

    kernels, gap_s = RUNTIMES["graph"].kernels(L4, "bf16"), GAP_S_PER_KERNEL
    around = sum(stream(hidden, p) for p in (*kernels.residual, *kernels.cast))
    around += stream(hidden, kernels.pre_norm if glu else kernels.norm, True)
    activation = kernels.gated if glu else kernels.plain
    total = stream(hidden, 2) + stream(hidden, 2, norm=True)
    for a, f, window in zip(heads, ffn, windows or [None] * len(heads), strict=True):
        total += gemm(3 * a * head_dim, hidden) + gemm(hidden, a * head_dim)
        total += gap_s + float(
            attention_seconds(L4, "bf16", [seq], [batch], a, head_dim, window=window, causal=causal)
        )
        total += gemm(f * (1 + glu), hidden) + gemm(hidden, f)
        total += sum(stream(f, p) for p in activation) + 2 * around
        total += sum(stream(2 * a * head_dim, p) for p in kernels.rotary) if glu else 0
    return total + (gemm(vocab, hidden) if vocab else 0)


def test_layers_that_differ_are_priced_one_by_one(tmp_path: Path) -> None:
    """Heads times head_dim need not be the hidden size, nor heads divide it."""
    sizes = dict(layers=3, hidden=760, batch=8, seq=500)
    cells = dict(heads="4-12-7", ffn="768-3072-1500", head_dim=60, glu=1, causal=1, vocab=50254)
    (answer,) = answers(tmp_path, [row(**sizes, **cells)])
    expected = layer_by_layer(
        760, [4, 12, 7], 60, [768, 3072, 1500], 8, 500, glu=True, causal=True, vocab=50254
    )
    assert seconds(answer) == pytest.approx(expected, rel=1e-5)


def test_one_list_and_one_number(tmp_path: Path) -> None:
    sizes = dict(layers=3, hidden=768, batch=8, seq=512)
    listed, numbers = answers(
        tmp_path,
        [row(**sizes, heads="4-12-6", ffn=1024), row(**sizes, heads=12, ffn="1024-2048-1024")],
    )
    by_heads = sum(layer_by_layer(768, [a], 768 // a, [1024], 8, 512) for a in (4, 12, 6))
    embedding = layer_by_layer(768, [], 64, [], 8, 512)
    assert seconds(listed) == pytest.approx(by_heads - 2 * embedding, rel=1e-5)
    expected = layer_by_layer(768, [12] * 3, 64, [1024, 2048, 1024], 8, 512)
    assert seconds(numbers) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_row_costs_what_the_same_encoder_costs_as_a_shape(tmp_path: Path, runtime: str, mode: str) -> None:
    """BERT's backbone: a row has no table of segments or positions, which only training's optimizer reads."""
    cells = row(layers=12, hidden=768, heads=12, ffn=3072, batch=16, seq=384)
    (answer,) = answers(tmp_path, [cells], runtime=runtime, mode=mode)
    workload = parse_workload("fixed:384x16")
    shape = parse_shape("bert:L12-h768-a12-i3072-g1-v1")
    expected = predict_shape(shape, L4, workload, runtime=runtime, mode=mode, head="none")
    assert seconds(answer) == pytest.approx(expected.latency_s, rel=1e-5 if mode == "inference" else 2e-3)
    assert float(answer["predicted_bytes"]) == pytest.approx(expected.peak_bytes, rel=0.01)
    assert answer["calibration"] == expected.calibration


@pytest.mark.parametrize("listed", [False, True])
def test_local_layers_lie_between_global_ones(tmp_path: Path, listed: bool) -> None:
    cells = dict(hidden=768, ffn="1152-" * 6 + "1152" if listed else 1152, batch=2, seq=4096, glu=1, heads=12)
    text = row(layers=7, **cells, global_every=3, window=64)
    expected = layer_by_layer(
        768, [12] * 7, 64, [1152] * 7, 2, 4096, glu=True, windows=[None, 64, 64, None, 64, 64, None]
    )
    assert seconds(answers(tmp_path, [text])[0]) == pytest.approx(expected, rel=1e-5)
    everywhere = layer_by_layer(768, [12] * 7, 64, [1152] * 7, 2, 4096, glu=True, windows=[64] * 7)
    text = row(layers=7, **cells, window=64)
    assert seconds(answers(tmp_path, [text])[0]) == pytest.approx(everywhere, rel=1e-5)


def test_parameters_are_those_of_a_searched_shape(tmp_path: Path) -> None:
    """The first shape of HW-GPT-Bench (Apache-2.0) has 148,591,104 parameters by its own count."""
    heads, ratios = "4-12-12-4-4-12-12-8-4-12", "2244333442"
    ffn = "-".join(str(768 * int(ratio)) for ratio in ratios)
    rows = [
        row(layers=10, hidden=768, heads=heads, ffn=ffn, head_dim=64, glu=1, vocab=50254, batch=1, seq=1,
            dtype=dtype)
        for dtype in ("bf16", "fp32")
    ]  # fmt: skip
    half, full = (float(answer["predicted_bytes"]) for answer in answers(tmp_path, rows))
    assert (full - half) / 2 == pytest.approx(148_591_104, rel=1e-3)


def test_small_eager_batches_wait_for_the_host(tmp_path: Path) -> None:
    def cells(layers: int, runtime: str) -> str:
        return row(layers=layers, hidden=768, heads=12, ffn=3072, batch=1, seq=16, runtime=runtime)

    rows = [cells(12, "graph"), cells(12, "eager"), cells(24, "eager")]
    graph, eager, twice = (seconds(answer) for answer in answers(tmp_path, rows))
    assert eager > 2 * graph
    # Four GEMMs, attention, activation, two residuals and two norms a layer, and casts where there are any.
    kernels = (twice - eager) / 12 / RUNTIMES["eager"].host_s_per_kernel
    assert kernels == pytest.approx(round(kernels), abs=1e-2) and kernels > 9.5


WIDTH = st.integers(1, 1024)
WHERE = st.fixed_dictionaries(
    {"gpu": st.sampled_from(["", "t4", "v100"]), "runtime": st.sampled_from(["", *RUNTIMES])}
    | {
        "glu": st.sampled_from(["", 0, 1]),
        "causal": st.sampled_from(["", 1]),
        "vocab": st.sampled_from(["", 9]),
    }
    | {"window": st.sampled_from(["", 8, 64]), "hidden": WIDTH, "batch": st.integers(1, 64), "seq": WIDTH}
)


@st.composite
def model(draw: st.DrawFn) -> str:
    layers = draw(st.integers(1, 5))

    def sizes() -> str:
        count = draw(st.sampled_from([1, layers]))
        return "-".join(map(str, draw(st.lists(WIDTH, min_size=count, max_size=count))))

    cells = draw(WHERE)
    every = draw(st.sampled_from(["", 1, 2, 3]))
    return row(layers=layers, heads=sizes(), ffn=sizes(), head_dim=draw(WIDTH), global_every=every, **cells)


@settings(max_examples=30, deadline=None)
@given(st.lists(model(), min_size=1, max_size=15), st.randoms(use_true_random=False))
def test_neither_order_nor_neighbours_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], order: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("table")
    together = answers(folder, rows)
    shuffled = order.sample(range(len(rows)), len(rows))
    again = answers(folder, [rows[i] for i in shuffled])
    alone = [answers(folder, [text])[0] for text in rows[:4]]
    pairs = [*zip(again, (together[i] for i in shuffled), strict=True), *zip(alone, together, strict=False)]
    for one, many in pairs:
        assert seconds(one) == pytest.approx(seconds(many), rel=2e-6)
        assert one["predicted_bytes"] == many["predicted_bytes"]


GOOD = dict(layers=2, hidden=128, heads=2, ffn=256, batch=2, seq=16)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"heads": "2-2-2"}, "table.csv:3: column heads: found '2-2-2'; accepted: one number, or 2 (layers)"),
        (
            {"ffn": "256-"},
            "table.csv:3: column ffn: found '256-'; accepted: a whole number from 1 to 300,000",
        ),
        ({"ffn": "-256"}, "table.csv:3: column ffn: found '-256'"),
        ({"ffn": "256-0"}, "table.csv:3: column ffn: found '256-0'"),
        ({"heads": ""}, "table.csv:3: column heads: found an empty cell"),
        ({"heads": 3}, "table.csv:3: column heads: found '3'; accepted: divisors of hidden 128"),
        ({"heads": "2-3"}, "table.csv:3: column heads: found '2-3'; accepted: divisors of hidden 128"),
        (
            {"seq": "nan"},
            "table.csv:3: column seq: found 'nan'; accepted: a whole number from 1 to 1,048,576",
        ),
        ({"glu": 2}, "table.csv:3: column glu: found '2'; accepted: 0, 1"),
        ({"layers": 1e300}, "table.csv:3: column layers: found '1e+300'"),
        ({"vocab": -1}, "table.csv:3: column vocab: found '-1'"),
        ({"gpu": "l44"}, "table.csv:3: column gpu: no GPU profile is called 'l44'; did you mean l4"),
        ({"dtype": "bf16", "gpu": "v100"}, "table.csv:3: dtype: v100 has no bf16"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, cells: dict[str, object], said: str) -> None:
    with pytest.raises(HwsearchError) as caught:
        answers(tmp_path, [row(**GOOD), row(**{**GOOD, **cells}), row(**GOOD)])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "layers,hidden,heads,ffn,batch",
            "table.csv:2: a model table needs the column seq; required: layers",
        ),
        (f"{REQUIRED},op", "table.csv:1: both op and layers"),
        (f"{REQUIRED},predicted_ms", "table.csv:1: the column predicted_ms is already there"),
        (f"{REQUIRED},calibration", "table.csv:1: the column calibration is already there"),
        ("hidden,heads", "table.csv:1: neither an operator table (column op: gemm"),
        ("layers;hidden;heads", "separated by commas; found: layers;hidden;heads"),
    ],
)
def test_what_is_no_model_table(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(HwsearchError) as caught:
        answers(tmp_path, [",".join("1" for _ in header.split(","))], header)
    assert said in str(caught.value)


def test_the_largest_sizes_have_a_finite_price(tmp_path: Path) -> None:
    cells = dict(layers=300_000, hidden=300_000, heads=300_000, ffn=300_000, batch=10_000_000, seq=1_048_576)
    (answer,) = answers(tmp_path, [row(**cells, head_dim=300_000, vocab=10_000_000, glu=1)], mode="training")
    assert 0 < seconds(answer) < float("inf") and 0 < float(answer["predicted_bytes"]) < float("inf")
