"""What `hwsearch tune` sets out to tune."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.tuned import KERNELS, LENGTHS, WINDOWS, Key
from hwsearch.space.search_space import load_space
from hwsearch.tuning.problems import (
    Wanted,
    class_workload,
    everything,
    kernels_named,
    of_space,
    problems,
    tunable,
)  # fmt: skip
from hwsearch.workload import parse_workload

L4, T4 = load_gpu("l4"), load_gpu("t4")


def test_a_window_that_hides_nothing_is_tuned_as_global_alone() -> None:
    wanted = Wanted(("bf16",), (64,), ("global", "narrow"), LENGTHS)
    found = [each.key for each in problems(L4, ["attention_forward"], wanted)]
    assert [key.length for key in found if key.window == "global"] == list(LENGTHS)
    assert [key.length for key in found if key.window == "narrow"] == [128, 512, 2048, 8192]


def test_a_space_asks_for_what_its_shapes_can_have(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "shape: {num_hidden_layers: 12, hidden_size: 768, head_size: [64, 96], intermediate_size: 1152,"
        " local_attention: [128, 256, 512]}\n"
        "budget: {max: 1B}\nbasket: {l4: 1}\nworkloads:\n- {lengths: 'fixed:300x4'}\n"
        "- {lengths: 'fixed:512x4'}\n- {lengths: 'fixed:8192x1'}\nobjectives: {latency: {}}\n"
        "reference: modernbert-base\n"
    )
    wanted = of_space(load_space(file), L4)
    assert wanted == Wanted(("bf16",), (64, 96), ("global", "narrow", "wide"), (512, 8192))
    # No tile is made for heads of 96; windows of 64 and 128 are one class, tuned at 64.
    tiles = problems(L4, ["attention_forward"], wanted)
    assert [(each.key, each.window) for each in tiles] == [
        (Key("bf16", 64, window, length), keys)
        for window, at in (("global", (None, None)), ("narrow", (64, 64)), ("wide", (256, 512)))
        for length, keys in zip((512, 8192), at, strict=True)
    ]
    backends = problems(L4, ["attention_backend"], wanted)
    assert len(backends) == 2 * len(tiles) and {each.heads for each in backends} == {12, 8}


def test_a_workload_of_ones_own_decides_the_class() -> None:
    own = parse_workload("normal:256,64,32..400x10")
    (problem,) = problems(L4, ["attention_forward"], Wanted(("fp16",), (32,), ("narrow",), LENGTHS, 5, own))
    assert problem.key == Key("fp16", 32, "narrow", 512)
    assert problem.heads == 5 and problem.workload == own


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_of_a_class_belong_to_it(length: int) -> None:
    workload = class_workload(length, L4)
    assert workload.padded_length == length and length // 2 <= min(workload.lengths)
    assert 0.8 * 32_768 < workload.tokens < 1.2 * 32_768


def test_what_can_be_tuned_where() -> None:
    assert tunable(L4, KERNELS, here=True) == KERNELS
    assert tunable(L4, KERNELS, here=False) == ("attention_forward", "attention_backward")
    assert tunable(T4, KERNELS, here=True) == ("attention_backend", "attention_backend_training")
    with pytest.raises(HwsearchError, match=r"t4: .* tensor cores"):
        tunable(T4, KERNELS, here=False)
    with pytest.raises(HwsearchError, match="l4: nothing of attention_backend can be tuned: it is not here"):
        tunable(L4, ["attention_backend"], here=False)


def test_names() -> None:
    assert kernels_named(["attention"]) == KERNELS
    assert kernels_named(["attention_backend", "attention_forward"]) == (
        "attention_forward", "attention_backend",
    )  # fmt: skip
    with pytest.raises(HwsearchError, match="no kernel is called 'gemm'; accepted: attention, "):
        kernels_named(["attention", "gemm"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(("bf16",), (64,), ("global",), (512,)), "t4 has no bf16"),
        (Wanted(("fp16",), (0,), ("global",), (512,)), "head size: 0; accepted: 1 to 256"),
        (Wanted(("fp16",), (64,), ("all",), (512,)), "window: 'all'; accepted: global, narrow, wide"),
        (Wanted(("fp16",), (64,), ("global",), (9000,)), "length: 9000; accepted: 1 to 8,192"),
        (Wanted(("fp16",), (64,), ("global",), (512,), 0), "heads: 0"),
        (Wanted(("fp16",), (64,), ("narrow",), (64,)), "nothing is left to tune"),
        (
            Wanted(("fp16",), (48,), ("global",), (512,)),
            "nothing is left to tune; tiles are for heads of 32, 64",
        ),
    ],
)
def test_bad_input_is_named(wanted: Wanted, message: str) -> None:
    with pytest.raises(HwsearchError, match=message):
        problems(T4, ["attention_forward"], wanted)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(KERNELS), min_size=1), st.lists(st.sampled_from((32, 64, 128)), min_size=1),
    st.lists(st.sampled_from(WINDOWS), min_size=1), st.lists(st.integers(1, 8192), min_size=1),
)  # fmt: skip
def test_no_row_is_tuned_twice(
    kernels: list[str], sizes: list[int], windows: list[str], lengths: list[int]
) -> None:
    try:
        found = problems(L4, kernels, Wanted(("bf16",), tuple(sizes), tuple(windows), tuple(lengths)))
    except HwsearchError:
        return
    assert len({(each.kernel, each.key) for each in found}) == len(found)


def test_all_is_every_head_size() -> None:
    assert everything(L4).head_sizes == (32, 64, 128)
