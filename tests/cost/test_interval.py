"""Intervals are those of the evidence behind a price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch.cost.interval import ENCODER_INTERVAL, UNKNOWN, operator_interval
from hwsearch.cost.operators import OPERATORS, Variant
from hwsearch.gpu.attention_kernels import KERNELS, accepts
from hwsearch.gpu.catalog import gpu_names, load_gpu

PLAIN = Variant()
RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("op", OPERATORS)
def test_every_profile_has_an_interval_for_everything(op: str) -> None:
    for name in gpu_names():
        gpu = load_gpu(name)
        for dtype in gpu.dense_flops_per_s:
            kernels = [k for k in KERNELS if accepts(gpu, dtype, k)] if op == "attention" else [""]
            for kernel in kernels:
                low, high = operator_interval(gpu, dtype, op, Variant(kernel=kernel))
                assert 0.3 < low <= 1 <= high < 4, (name, dtype, kernel)
                assert (low, high) != UNKNOWN


def test_a_gpu_that_was_timed_has_a_narrower_interval() -> None:
    timed, other = (operator_interval(load_gpu(n), "bf16", "gemm", PLAIN) for n in ("h100-sxm", "l4"))
    assert other[0] < timed[0] and timed[1] < other[1]


def test_the_interval_is_the_evidence_s_own() -> None:
    gpu = load_gpu("l40s")
    block = gpu.calibration.gemm["bf16"]
    evidence = replace(block.evidence, low_factor=0.5, high_factor=1.25)
    blocks = {**gpu.calibration.gemm, "bf16": replace(block, evidence=evidence)}
    changed = replace(gpu, calibration=replace(gpu.calibration, gemm=blocks))
    assert operator_interval(changed, "bf16", "gemm", PLAIN) == (0.5, 1.25)
    assert operator_interval(changed, "fp32", "gemm", PLAIN) != (0.5, 1.25)


def test_whole_encoders_have_the_interval_of_gpus_left_out() -> None:
    judged = (RESULTS / "encoders_left_out.txt").read_text(encoding="utf-8")
    low, high = ENCODER_INTERVAL
    assert f"measured / predicted, 90 %: {low:.2f} to {high:.2f};" in judged
