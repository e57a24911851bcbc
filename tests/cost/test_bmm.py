"""Prices of batched products."""

from __future__ import annotations

import numpy as np

from hwsearch.cost.bmm import bmm_seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.gpu.catalog import load_gpu

GPU = load_gpu("a100-sxm-80")


def test_a_batch_of_one_is_a_product() -> None:
    assert bmm_seconds(GPU, "bf16", 1, 512, 512, 64) == gemm_seconds(GPU, "bf16", 512, 512, 64)


def test_arrays_and_growth_with_the_batch() -> None:
    small, large = bmm_seconds(GPU, "bf16", np.array([64, 6400]), 512, 512, 64)
    assert 10 < large / small < 150
