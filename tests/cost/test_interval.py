"""Intervals follow from what the profile says about its own error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwsearch.cost.interval import interval
from hwsearch.cost.operators import OPERATORS
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu


def with_gemm_error(gpu: Gpu, dtype: str, percent: float) -> Gpu:
    constants = gpu.calibration.gemm[dtype]
    evidence = replace(constants.evidence, kind="fitted", own_error_percent=percent)
    blocks = {**gpu.calibration.gemm, dtype: replace(constants, evidence=evidence)}
    return replace(gpu, calibration=replace(gpu.calibration, gemm=blocks))


@pytest.mark.parametrize("kind", [*OPERATORS, *RUNTIMES])
def test_every_profile_has_an_interval_for_everything(kind: str) -> None:
    for name in gpu_names():
        gpu = load_gpu(name)
        for dtype in gpu.dense_flops_per_s:
            low, high = interval(gpu, dtype, kind)
            assert 0 < low < 1 < high and low * high == pytest.approx(1)


def test_a_larger_error_is_a_wider_interval() -> None:
    gpu = load_gpu("l40s")
    narrow, wide = (interval(with_gemm_error(gpu, "bf16", percent), "bf16", "gemm") for percent in (5, 20))
    assert wide[0] < narrow[0] < 1 < narrow[1] < wide[1]
    # 1.645 / 0.6745 standard errors over median absolute errors of a normal distribution.
    assert narrow[1] == pytest.approx(1 + 0.05 * 1.645 / 0.6745, rel=1e-3)
