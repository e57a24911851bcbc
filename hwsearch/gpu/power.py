"""The clock that a GPU sustains in dense matrix products under its power limit.

    power    = (1 - POWER_SHARE) TDP - POWER_BASE_W: what is left for the multipliers
    hard_hz  = power / (SMs x FLOP per clock and SM x energy per FLOP)
    clock_hz = min(boost, hard_hz if hard_hz <= floor_hz
                          else floor_hz (hard_hz / floor_hz)^(1 / (1 + VOLTAGE_EXPONENT)))

A chip lowers its voltage with its clock, down to a floor: below floor_hz a FLOP costs the same energy
at every clock, above it the energy grows as (clock / floor_hz)^VOLTAGE_EXPONENT. Energies are those of
the process and the unit (SIMT lanes or tensor cores), never of one card. The limit is an average over time:
a kernel that is timed in a short loop may spend more, power x (1 + BURST_SHARE / (1 + kernel_s / BURST_S)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwsearch.gpu.profile import Gpu

# Leakage and losses grow with the board; memory at idle, host link and regulators do not. The two cards of
# 12 nm whose clocks are known, T4 (70 W) and V100 (250 W), agree on one energy per FLOP with this pair.
POWER_SHARE = 0.1
POWER_BASE_W = 12.0
# A100 products from 250 to 400 W and H100 products from 350 to 700 W: energy grows so with the clock.
VOLTAGE_EXPONENT = 0.65
# NeuSight's T4 runs fp32 kernels of 0.5 ms half as fast again as kernels of 50 ms. An L4 does so too, over
# 36 products of 1 ms, 11 ms and 100 ms: same source as PROCESSES.
BURST_SHARE = 0.5
BURST_S = 2e-3


@dataclass(frozen=True)
class Process:
    """Joules per issued FLOP at or below `floor_hz`: fp32 on SIMT lanes, 16 bit on tensor cores."""

    simt_j: float
    tensor_j: float
    floor_hz: float


# Share of the tensor rate per clock that the best products reach.
TENSOR_SHARE = 0.9


# By compute capability. Sources: NeuSight fp32 (T4, V100, A100; benchmarks/fit_fp32.py); sustained square
# products of github.com/zzc0721/torch-performance-test-data, 078586871d and issues 78 to 185, at 0.9 of the
# tensor rate per clock (A100-PCIe, H100-PCIe, L40S, RTX A6000, A4000, A2000, B200). The L4 and the A40 there
# set no energy and serve as checks in the tests, but Ada's floor clock was chosen with the L4 in sight.
_NM_12 = Process(14.0e-12, 1.9e-12, 1.38e9)
PROCESSES = {
    (6, 0): _NM_12,
    (7, 0): _NM_12,
    (7, 5): _NM_12,
    (8, 0): Process(10.2e-12, 0.88e-12, 0.9e9),
    (8, 6): Process(7.0e-12, 1.7e-12, 1.45e9),
    (8, 9): Process(3.4e-12, 0.816e-12, 1.5e9),
    (9, 0): Process(5.0e-12, 0.58e-12, 1.1e9),
    (10, 0): Process(5.0e-12, 0.36e-12, 1.1e9),
    (12, 0): Process(3.4e-12, 0.816e-12, 1.5e9),
}


def sustained_clock_hz(gpu: Gpu, dtype: str) -> float:
    """Clock in Hz while every SM multiplies matrices of `dtype` for seconds; boost where power allows it.

    A GPU of an unknown process, or a CPU, keeps its boost clock. Raises HwsearchError for a dtype that
    the GPU lacks.
    """
    return float(loop_clock_hz(gpu, dtype, np.inf))


def loop_clock_hz(gpu: Gpu, dtype: str, kernel_s: ArrayLike) -> NDArray[np.float64]:
    """The same while a kernel of `kernel_s` seconds repeats some dozens of times, as benchmarks do."""
    gpu.check_dtype(dtype)
    process = PROCESSES.get(gpu.compute_capability)
    if process is None:
        return np.full(np.shape(kernel_s), gpu.boost_hz)
    power_w = (1 - POWER_SHARE) * gpu.tdp_w - POWER_BASE_W
    hard_hz = gpu.boost_hz * power_w / (gpu.dense_flops_per_s[dtype] * _joules_per_flop(gpu, process, dtype))
    burst_hz = hard_hz * (1 + BURST_SHARE / (1 + np.asarray(kernel_s, dtype=np.float64) / BURST_S))
    above = np.maximum(burst_hz / process.floor_hz, 1.0)
    return np.minimum(gpu.boost_hz, burst_hz / above ** (VOLTAGE_EXPONENT / (1 + VOLTAGE_EXPONENT)))


def _joules_per_flop(gpu: Gpu, process: Process, dtype: str) -> float:
    if dtype == "fp32":
        return process.simt_j
    if gpu.compute_capability < (7, 0):  # two halves a lane
        return process.simt_j / 2
    return process.tensor_j * (2 if dtype == "tf32" else 1)


def sustained_fraction(gpu: Gpu, dtype: str) -> float:
    """Share of the datasheet's dense tensor rate that the best long products sustain."""
    of_boost = TENSOR_SHARE * sustained_clock_hz(gpu, dtype) / gpu.boost_hz
    # Datasheets quote H100 and B200 at less than their boost clock: an SM does a power of two a clock.
    each = gpu.dense_flops_per_s[dtype] / (gpu.sms * gpu.boost_hz)
    return float(of_boost * 2 ** round(np.log2(each)) / each)


# FLOPs a clock and SM of tensor cores of Turing, GA10x, Ada and GB202 that sum in fp32 at full rate.
FULL_RATE_PER_CYCLE = {"bf16": 1024, "fp16": 1024, "tf32": 512}
HALVED_CHIPS = ((7, 5), (8, 6), (8, 9), (12, 0))


def halves_fp32_sums(gpu: Gpu, dtype: str) -> bool:
    """Whether this is a card, as GeForce are, whose tensor cores run at half rate when they sum in fp32."""
    if gpu.compute_capability not in HALVED_CHIPS or dtype not in FULL_RATE_PER_CYCLE:
        return False
    each = gpu.dense_flops_per_s[dtype] / (gpu.sms * gpu.boost_hz)
    return each < 0.75 * FULL_RATE_PER_CYCLE[dtype]
