"""Constants of the attention kernels on any GPU, for those that were not timed on the GPU at hand."""

from __future__ import annotations

from dataclasses import replace

from hwsearch.gpu.calibration import AttentionConstants, Evidence
from hwsearch.gpu.profile import Gpu

_DATA = "ai-dynamo/aiconfigurator 095f58a, encoder and causal prefill attention, bf16"
_COMMON = AttentionConstants(
    kernel="fa2",
    floor_cycles=11_800,
    block_overhead_cycles=55,
    compute_fraction=0.662,
    exponential_fraction=2.94,
    wave_rounding=0.853,
    bytes_per_cycle=13.1,
    extra_passes=0.747,
    evidence=Evidence(
        "transferred",
        _DATA,
        12_661,
        None,
        8.7,
        ("l40s", "a100-sxm-80"),
        low_factor=0.787,
        high_factor=1.266,
    ),
)
# Of any flash kernel on a GPU left out, its rate from what its authors published; printed there too.
_ANY_LOW, _ANY_HIGH = 0.822, 1.729
_UNTIMED = "no timings of this kernel: error unknown, all but its rate is FA2's"
# Printed by benchmarks/fit_attention.py as "all together": one rate and overhead per kernel, the rest
# common to all. Transfer errors: FA2 the mean of both GPUs left out; FA3 and FA4, each timed on one GPU, with
# the rate that their authors published; Triton the own error on the one GPU that it was timed on.
SHARED = {
    "fa2": _COMMON,
    "fa3": replace(
        _COMMON,
        kernel="fa3",
        block_overhead_cycles=5_730,
        compute_fraction=1.0,
        exponential_fraction=1.95,
        evidence=Evidence(
            "transferred",
            _DATA,
            11_437,
            None,
            11.5,
            ("h100-sxm",),
            low_factor=_ANY_LOW,
            high_factor=_ANY_HIGH,
        ),
    ),
    "fa4": replace(
        _COMMON,
        kernel="fa4",
        block_overhead_cycles=3_380,
        compute_fraction=0.49,
        exponential_fraction=100.0,
        evidence=Evidence(
            "transferred",
            _DATA,
            7_679,
            None,
            30.1,
            ("b200",),
            note="head sizes 64 to 80; larger are faster",
            low_factor=_ANY_LOW,
            high_factor=_ANY_HIGH,
        ),
    ),
    "triton": replace(
        _COMMON,
        kernel="triton",
        floor_cycles=8_880,
        block_overhead_cycles=1,
        compute_fraction=0.565,
        exponential_fraction=2.69,
        wave_rounding=0.822,
        bytes_per_cycle=40,
        extra_passes=0.5,
        evidence=Evidence(
            "transferred",
            _DATA,
            7_679,
            None,
            14.7,
            ("l40s",),
            note="SGLang's prefill kernel",
            low_factor=_ANY_LOW,
            high_factor=_ANY_HIGH,
        ),
    ),
    # 63 % of the tensor rate for flash-attention-turing, "twice PyTorch's memory-efficient attention", T4,
    # head size 128 (its README): a rate of 0.315 in all.
    "efficient": replace(
        _COMMON,
        kernel="efficient",
        compute_fraction=0.32,
        evidence=Evidence(
            "transferred",
            f"{_DATA}; rate from the README of flash-attention-turing",
            12_661,
            from_gpus=("l40s", "a100-sxm-80"),
            note=_UNTIMED,
            low_factor=_ANY_LOW,
            high_factor=_ANY_HIGH,
        ),
    ),
    # FlashAttention's first kind reached 25 to 40 % of the tensor rate (abstract of FlashAttention-2): the
    # middle. Engines read queries, keys and values where the product before wrote them.
    "engine": replace(
        _COMMON,
        kernel="engine",
        compute_fraction=0.325,
        extra_passes=0.0,
        evidence=Evidence(
            "transferred",
            f"{_DATA}; rate of the first FlashAttention, https://arxiv.org/abs/2307.08691",
            12_661,
            from_gpus=("l40s", "a100-sxm-80"),
            note=_UNTIMED,
            low_factor=_ANY_LOW,
            high_factor=_ANY_HIGH,
        ),
    ),
}


def attention_constants(gpu: Gpu, dtype: str, kernel: str) -> AttentionConstants:
    """The profile's own constants if they describe `kernel`, else those shared by all GPUs."""
    own = gpu.calibration.attention[dtype]
    return own if own.kernel == kernel else SHARED[kernel]
