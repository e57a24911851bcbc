"""Attention prices: tiles counted by hand, scaling laws, and public measurements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.cost.attention import attention_rows_seconds, attention_seconds
from hwsearch.cost.attention_tiles import visited_tiles
from hwsearch.errors import HwsearchError
from hwsearch.gpu.attention_kernels import KERNELS, accepts
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu

GPUS = {name: load_gpu(name) for name in gpu_names()}
PAIRS = [(name, dtype) for name, gpu in GPUS.items() for dtype in gpu.dense_flops_per_s]
RUNS = [(name, dtype, k) for name, dtype in PAIRS for k in KERNELS if accepts(GPUS[name], dtype, k)]
FUSED = [run for run in RUNS if run[2] != "math"]
lengths = st.lists(st.integers(1, 700), min_size=1, max_size=4, unique=True)


@settings(max_examples=60)
@given(lengths, st.sampled_from([(64, 64), (128, 64), (128, 128)]), st.integers(-1, 200), st.booleans())
def test_tiles_are_those_that_hold_a_visible_pair(
    sequence: list[int], tile: tuple[int, int], window: int, causal: bool
) -> None:
    """The mask itself, cut into tiles: a tile is visited if the block may see any key in its span."""
    blocks = visited = longest = 0
    for s in sequence:
        i, j = np.arange(s)[:, None], np.arange(s)[None, :]
        mask = (abs(i - j) <= window) if window >= 0 else np.ones((s, s), dtype=bool)
        if causal:
            mask = mask & (j <= i)
        for start in range(0, s, tile[0]):
            seen = np.unique(np.nonzero(mask[start : start + tile[0]])[1] // tile[1])
            blocks, visited, longest = blocks + 1, visited + len(seen), max(longest, len(seen))
    counts = np.ones(len(sequence), dtype=np.int64)
    assert visited_tiles(*tile, np.array(sequence), counts, window, causal) == (blocks, visited, longest)


def test_a_window_is_linear_in_length_and_global_attention_quadratic() -> None:
    for name in ("a100-sxm-80", "h100-sxm", "l4", "t4"):
        gpu = GPUS[name]
        windows = np.array([-1, 64])
        short, long = (
            attention_seconds(gpu, gpu.default_dtype, [s], [64], 16, 64, window=windows)
            for s in (8192, 16384)
        )
        whole, local = long / short
        assert 3.8 < whole < 4.1
        assert 1.9 < local < 2.1


@given(
    st.sampled_from(RUNS), lengths, st.integers(1, 32), st.sampled_from([32, 64, 128]), st.integers(0, 300)
)
def test_more_work_is_never_faster(
    run: tuple[str, str, str], sequence: list[int], heads: int, size: int, window: int
) -> None:
    name, dtype, kernel = run
    gpu = GPUS[name]
    counts = np.ones(len(sequence), dtype=int)

    def price(
        lengths: list[int] = sequence, repeat: int = 1, h: int = heads, d: int = size, causal: bool = False
    ) -> float:
        return float(
            attention_seconds(gpu, dtype, lengths, repeat * counts, h, d, causal=causal, kernel=kernel)
        )

    local, wider = (
        float(attention_seconds(gpu, dtype, sequence, counts, heads, size, window=w, kernel=kernel))
        for w in (window, window + 50)
    )
    assert wider >= local * (1 - 1e-9)
    base = price()
    assert all(more >= base * (1 - 1e-9) for more in (price(repeat=2), price(h=heads + 1)))
    # A wider head, like a mask, may get a tile that wastes less; one token more may open a short new block.
    assert price(d=2 * size) >= 0.8 * base
    assert price([s + 1 for s in sequence]) >= 0.85 * base
    if kernel not in ("fa2", "fa3"):
        assert price(causal=True) <= base * (1 + 1e-9)


@given(st.sampled_from(FUSED), lengths, st.integers(1, 32), st.sampled_from([64, 128]))
def test_neither_memory_nor_products_are_beaten(
    run: tuple[str, str, str], sequence: list[int], heads: int, size: int
) -> None:
    name, dtype, kernel = run
    gpu = GPUS[name]
    counts = np.full(len(sequence), 3)
    seconds = float(attention_seconds(gpu, dtype, sequence, counts, heads, size, kernel=kernel))
    flops = 3 * sum(4 * s * s for s in sequence) * heads * size
    moved = 3 * sum(4 * s for s in sequence) * heads * size * (4 if dtype in ("fp32", "tf32") else 2)
    assert seconds >= flops / gpu.dense_flops_per_s[dtype]
    # L2 keeps what one run leaves to the next; an SM moves some 40 bytes a clock at most.
    assert seconds >= moved / (gpu.sms * gpu.boost_hz * 40)


@given(
    st.sampled_from(RUNS),
    st.integers(1, 64),
    st.integers(1, 3000),
    st.integers(1, 32),
    st.sampled_from([40, 64, 80, 128, 256]),
    st.integers(-1, 200),
    st.booleans(),
)
def test_rows_of_a_table_are_batches_of_equal_lengths(
    run: tuple[str, str, str], batch: int, length: int, heads: int, size: int, window: int, causal: bool
) -> None:
    name, dtype, kernel = run
    row = attention_rows_seconds(
        GPUS[name],
        dtype,
        [batch, 1],
        [length, 7],
        [heads, 1],
        [size, 64],
        [window, -1],
        causal=causal,
        kernel=kernel,
    )
    one = attention_seconds(
        GPUS[name], dtype, [length], [batch], heads, size, window=window, causal=causal, kernel=kernel
    )
    assert row[0] == pytest.approx(float(one))


def test_unfused_attention_pays_for_its_scores() -> None:
    gpu: Gpu = GPUS["a100-sxm-80"]
    fused, unfused = (
        float(attention_seconds(gpu, "bf16", [1024], [16], 16, 64, kernel=k)) for k in ("fa2", "math")
    )
    # Two products, scale, mask and softmax each read and write 16 x 16 x 1024 x 1024 scores of 2 bytes.
    assert unfused > 8 * 2 * 16 * 16 * 1024**2 / gpu.bandwidth_bytes_per_s * 0.9
    assert unfused > 3 * fused


def test_prefill_costs_its_cache() -> None:
    gpu = GPUS["h100-sxm"]
    plain, prefill = (
        float(attention_rows_seconds(gpu, "bf16", 32, 512, 32, 128, causal=True, prefill=p))
        for p in (False, True)
    )
    # Half of the 4 x 32 x 512 x 32 x 128 x 2 bytes goes into the cache at least.
    assert prefill - plain > 2 * 32 * 512 * 32 * 128 * 2 / gpu.bandwidth_bytes_per_s


def test_arrays_equal_scalars() -> None:
    gpu = GPUS["h100-sxm"]
    heads, size, window = np.array([12, 16, 16, 8]), np.array([64, 64, 128, 32]), np.array([-1, 64, 64, 128])
    kv_heads = np.array([12, 4, 16, 8])
    together = attention_seconds(
        gpu, "bf16", [100, 512, 900], [3, 2, 1], heads, size, window=window, key_value_heads=kv_heads
    )
    alone = [
        float(attention_seconds(gpu, "bf16", [100, 512, 900], [3, 2, 1], h, d, window=w, key_value_heads=v))
        for h, d, w, v in zip(heads, size, window, kv_heads, strict=True)
    ]
    # numpy's vector instructions round the last digit another way than its scalar loop does.
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


def test_no_tokens_cost_the_floor() -> None:
    gpu = GPUS["l4"]
    floor = gpu.calibration.attention["bf16"].floor_cycles / gpu.boost_hz
    assert float(attention_seconds(gpu, "bf16", [], [], 12, 64)) == floor
    assert float(attention_seconds(gpu, "bf16", [0, 64], [5, 0], 12, 64)) == floor
    assert float(attention_seconds(gpu, "bf16", [], [], 12, 64, kernel="math")) == 0.0
    assert attention_rows_seconds(gpu, "bf16", [], [], [], []).tolist() == []


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(HwsearchError, match="v100 has no bf16"):
        attention_seconds(GPUS["v100"], "bf16", [64], [1], 12, 64)
    with pytest.raises(HwsearchError, match="lengths and counts"):
        attention_seconds(GPUS["l4"], "bf16", [64, 128], [1], 12, 64)


# Milliseconds, median over backends, head size 64 (A100: 128, causal): ai-dynamo/aiconfigurator 095f58a.
MEASURED = [
    ("l40s", 8, 512, 16, 0.064768),
    ("l40s", 4, 2048, 16, 0.426667),
    ("h100-sxm", 32, 512, 16, 0.133616),
    ("h100-sxm", 16, 1024, 12, 0.172635),
    ("h100-sxm", 4, 8192, 16, 2.16348),
    ("b200", 16, 1024, 12, 0.09616),
    ("b200", 64, 128, 16, 0.0509173),
    ("a100-sxm-80", 8, 4096, 16, 3.65174),
    ("a100-sxm-80", 64, 128, 16, 0.216539),
]


@pytest.mark.parametrize(("name", "batch", "length", "heads", "milliseconds"), MEASURED)
def test_measured_points(name: str, batch: int, length: int, heads: int, milliseconds: float) -> None:
    a100 = name.startswith("a100")
    seconds = attention_rows_seconds(
        GPUS[name], "bf16", batch, length, heads, 128 if a100 else 64, causal=a100, prefill=a100
    )
    assert float(seconds) * 1e3 == pytest.approx(milliseconds, rel=0.2)


def test_the_largest_unfused_attention_that_tables_accept_does_not_wrap() -> None:
    lengths = np.array([1 << 10, 1 << 20])
    short, long = attention_rows_seconds(load_gpu("l4"), "bf16", 10**7, lengths, 1 << 20, 128, kernel="math")
    assert long > 1e5 * short > 0
