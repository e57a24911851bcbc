"""What bounds a price, for prices of which it is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwsearch.cost.attention import attention_seconds
from hwsearch.cost.bounds import find_bound
from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

H100 = load_gpu("h100-sxm")


@pytest.mark.parametrize(
    ("price", "bound"),
    [
        (lambda gpu: 1 / gpu.bandwidth_bytes_per_s, "memory"),
        (lambda gpu: 1 / gpu.dense_flops_per_s["bf16"], "compute"),
        (lambda gpu: 1 / gpu.tdp_w, "power"),
        (lambda gpu: 1e-6, "overhead"),
        # The longer of two: only it counts.
        (lambda gpu: max(1e9 / gpu.bandwidth_bytes_per_s, 1e9 / gpu.dense_flops_per_s["bf16"]), "memory"),
        # A power limit that is a share of the rate is no shortage of units.
        (
            lambda gpu: 1 / (gpu.dense_flops_per_s["bf16"] * gpu.calibration.gemm["bf16"].sustained_fraction),
            "power",
        ),
        (lambda gpu: float(stream_seconds(gpu, "bf16", 1 << 20, 4096)), "memory"),
        (lambda gpu: float(stream_seconds(gpu, "bf16", 1, 64)), "overhead"),
        (lambda gpu: float(stream_seconds(gpu, "bf16", 5000, 1024)), "cache"),
        (lambda gpu: float(attention_seconds(gpu, "bf16", [16384], [64], 16, 128)), "power"),
    ],
)
def test_bounds_of_known_prices(price: Callable[[Gpu], float], bound: str) -> None:
    assert find_bound(H100, "bf16", price) == bound
