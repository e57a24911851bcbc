"""Which attention kernel a GPU gets, and its tiles."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.gpu.attention_constants import SHARED, attention_constants
from hwsearch.gpu.attention_kernels import KERNELS, Tile, accepts, best_kernel, choose_kernel, tile_of
from hwsearch.gpu.catalog import gpu_names, load_gpu


@pytest.mark.parametrize(
    ("gpu", "dtype", "kernel"),
    [
        ("a100-sxm-80", "bf16", "fa2"),
        ("rtx4090", "fp16", "fa2"),
        ("rtx5090", "bf16", "fa2"),
        ("h100-sxm", "bf16", "fa3"),
        ("h200-sxm", "fp16", "fa3"),
        ("b200", "bf16", "fa4"),
        ("t4", "fp16", "efficient"),
        ("v100", "fp16", "efficient"),
        ("p100", "fp16", "efficient"),
        ("h100-sxm", "fp32", "efficient"),
        ("h100-sxm", "tf32", "efficient"),
    ],
)
def test_default_kernels(gpu: str, dtype: str, kernel: str) -> None:
    assert best_kernel(load_gpu(gpu), dtype) == kernel


def test_every_profile_holds_the_constants_of_its_default_kernel() -> None:
    for name in gpu_names():
        gpu = load_gpu(name)
        for dtype in gpu.dense_flops_per_s:
            assert gpu.calibration.attention[dtype].kernel == best_kernel(gpu, dtype)
            for kernel in KERNELS:
                if kernel != "math" and accepts(gpu, dtype, kernel):
                    assert attention_constants(gpu, dtype, kernel).kernel == kernel


def test_constants_of_other_kernels_are_the_shared_ones() -> None:
    h100 = load_gpu("h100-sxm")
    assert attention_constants(h100, "bf16", "fa3") is h100.calibration.attention["bf16"]
    assert attention_constants(h100, "bf16", "fa2") is SHARED["fa2"]


def test_a_kernel_that_does_not_run_is_refused() -> None:
    with pytest.raises(HwsearchError, match="t4 has no fa2 attention in fp16; it has efficient, math"):
        choose_kernel(load_gpu("t4"), "fp16", "fa2")
    with pytest.raises(HwsearchError, match="a100-sxm-80 has no fa2 attention in fp32"):
        choose_kernel(load_gpu("a100-sxm-80"), "fp32", "fa2")
    with pytest.raises(HwsearchError, match="'flash'; accepted: fa2, fa3, fa4, triton, efficient, math"):
        choose_kernel(load_gpu("t4"), "fp16", "flash")


def test_tiles_of_the_launch_templates() -> None:
    """flash_fwd_launch_template.h and tile_size.h of flash-attention."""
    assert tile_of("fa2", (8, 0), 64, False, False) == Tile(128, 128, 64)
    assert tile_of("fa2", (8, 0), 128, False, False) == Tile(128, 64, 128)
    assert tile_of("fa2", (8, 9), 128, False, False) == Tile(128, 32, 128)
    assert tile_of("fa2", (8, 6), 128, True, False) == Tile(64, 64, 128)
    assert tile_of("fa2", (8, 0), 80, False, False) == Tile(128, 64, 96)
    assert tile_of("fa3", (9, 0), 64, False, False) == Tile(192, 192, 64)
    assert tile_of("fa3", (9, 0), 64, False, True) == Tile(192, 128, 64)
    assert tile_of("fa3", (9, 0), 128, False, False) == Tile(128, 176, 128)


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != "math"])
def test_every_head_size_has_a_tile_that_holds_it(kernel: str) -> None:
    for size in (1, 8, 40, 63, 64, 65, 72, 96, 100, 128, 160, 192, 256, 257, 512):
        tile = tile_of(kernel, (8, 9), size, False, False)
        assert tile.head_size >= size
        assert tile.queries % 16 == tile.keys % 8 == 0


def test_needs_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, hwsearch.gpu.attention_constants; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
