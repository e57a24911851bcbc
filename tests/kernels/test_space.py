"""The spaces of the attention kernels: every configuration is one that a launch can take."""

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from hwsearch.kernels.triton_attention import space
from hwsearch.kernels.triton_attention.configs import TILE_SIZES, default_tiles
from hwsearch.kernels.triton_attention.space import default_config, space_of, trimmed
from hwsearch.kernels.triton_attention.tuned_tiles import tiles_of

GPUS = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)]
LENGTHS = (1, 16, 32, 64, 128, 512, 2048, 8192)
CALLS = list(product(GPUS, ("bf16", "fp32"), (32, 64, 128), (None, 64, 512), LENGTHS))


@pytest.mark.parametrize("kernel, most", [("attention_forward", 500), ("attention_backward", 10_000)])
def test_spaces_hold_each_configuration_once_and_the_default(kernel, most):
    for call in CALLS:
        found = space_of(kernel, *call)
        assert 0 < len(found) <= most, call
        assert len({tuple(c.items()) for c in found}) == len(found)
        assert len({tuple(c) for c in found}) == 1, "all have the same keys, in one order"
        assert default_config(kernel, *call) in found


def test_tiles_are_ones_the_work_list_has():
    for call in CALLS:
        for config in space_of("attention_forward", *call):
            assert config["rows"] in TILE_SIZES and config["columns"] >= 16


def test_one_pass_only_where_a_tile_holds_the_longest_sequence():
    for call in CALLS:
        for config in space_of("attention_backward", *call):
            assert not config["one_pass"] or config["rows"] >= call[-1]


def test_default_configurations_mean_the_default_tiles():
    for capability, dtype, size, window, longest in CALLS:
        call = (capability, dtype, size, window, longest)
        local = window is not None and window < longest - 1
        default = default_tiles(capability, space.BYTES[dtype], size, local, longest)
        forward, backward = (default_config(kernel, *call) for kernel in space.KERNELS)
        for f, b in ((forward, backward), (trimmed(forward), trimmed(backward))):
            tiles = tiles_of(f, b, default)
            assert tiles.short == default.short
            assert replace(tiles.forward, split=None) == default.forward
            assert tiles.rotate_in_forward == default.rotate_in_forward
            assert tiles.rotate_in_backward == default.rotate_in_backward
            if tiles.short is None:
                assert replace(tiles.dq, split=None) == default.dq
                assert replace(tiles.dkdv, split=None) == default.dkdv
        assert tiles_of(None, None, default) == default


def test_a_window_that_hides_nothing_is_none():
    call = ((9, 0), "bf16", 64)
    assert space_of("attention_forward", *call, 511, 512) == space_of("attention_forward", *call, None, 512)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("attention", (8, 0), "bf16", 64, None, 64), "kernel: 'attention'"),
        (("attention_forward", (8, 0), "bfloat16", 64, None, 64), "dtype: 'bfloat16'"),
        (("attention_forward", (7, 5), "fp16", 64, None, 64), "compute capability"),
    ],
)
def test_what_has_no_space_is_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        space_of(*arguments)


def test_estimates_never_exceed_what_compiled_kernels_took():
    """All of results/kernel_compile.csv that runs without spills would pass the estimates."""
    table = Path(__file__).parents[2] / "results" / "kernel_compile.csv"
    short_names = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    checked = 0
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["kernel"] not in ("forward", "dq", "dkdv") or row["error"] or int(row["stack_bytes"]):
                continue
            major, minor = row["capability"].split(".")
            capability, size = (int(major), int(minor)), space.BYTES[short_names[row["dtype"]]]
            rows, columns, warps, head = (int(row[n]) for n in ("rows", "columns", "warps", "head_size"))
            staged = space.staged_bytes(columns, int(row["stages"]), head, size, row["rope"])
            assert staged <= int(row["shared_bytes"]), row
            held = space.accumulators(row["kernel"], rows, columns, head, warps, capability, size)
            assert held <= space.ACCUMULATORS, row
            checked += 1
    assert checked > 500
