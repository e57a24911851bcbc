"""Seconds of one compiled configuration of hwsearch's attention kernels, from what its code issues.

The tables of the tuner rest on it where no GPU is at hand. It knows a configuration by its compiled code, and
nothing of triton or tuning: that is why it stands with the cost model.

Four warps, one on each scheduler, are a customer of their multiprocessor's units, in turn: tensor cores,
special function units (exp2), arithmetic (issue slots, multiply-add lanes, other lanes: the fullest), shared
memory. In between they wait: for the results of products, barriers, exchanges, and loads that the stages did
not ask for early enough. n customers are resident; they share the units as in mean value analysis of a closed
network (Schweitzer's approximation: P. Schweitzer 1979; Y. Bard 1979), with D the cycles of a customer at
each unit and Z its waits:

    residence of unit k = D_k (1 + (n - 1) / n x customers at k),  customers at k = n residence / T,
    T(n) = Z + sum of residences                             cycles from start to end of a block

    compute = (full waves x T(n) + T(blocks left an SM)) / clock
    seconds = launch + max(compute, bytes through L2, bytes to memory and back)

n is what fits an SM (registers, shared memory, warps, tensor memory), times a block's warps over four.
Nothing is fitted to times of these kernels. Constants:

- lanes: CUDA C++ Programming Guide, arithmetic throughput: 16 special functions, 64 lanes for compare, logic
  and conversions; 128 multiply-adds, 64 on 8.0. Four schedulers issue one instruction of a warp a cycle.
- shared memory: 128 bytes a cycle (the same guide: 32 banks of 4 bytes).
- latencies in cycles: shared memory 29, L2 263, memory 479 (H100; A100 and RTX 4090 within 14 %; Luo et al.
  2024, arXiv 2402.13499, from memory); shuffle 23 (Jia et al. 2018, arXiv 1804.06826, from memory).
- of a product, from issue to use: mma.sync 33 (Sun et al. 2022, arXiv 2206.02874, from memory); wgmma 64 and
  tcgen05 180, with fence, commit and wait: assumed. A barrier 30: assumed.
- mma.sync runs at 0.63 of wgmma's rate on Hopper (arXiv 2402.13499, from memory); as many FLOP a cycle are
  assumed for Blackwell's 10.0.
- tensor rate, clock, bandwidth, L2: the GPU's profile; 40 bytes a cycle and SM from L2 as fitted for Triton
  (hwsearch.gpu.attention_constants).

Left out: bank conflicts, traffic of tensor memory, how lengths in one wave differ but for the longest block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.attention_tiles import Stretches, stretches
from hwsearch.cost.traffic import traffic_seconds
from hwsearch.gpu.attention_constants import SHARED
from hwsearch.gpu.power import sustained_clock_hz
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.kernels.triton_attention.instructions import WARP, Instructions, Mix
from hwsearch.kernels.triton_attention.occupancy import blocks_per_sm

METHOD = "pipeline model 1"

SPECIAL_LANES, OTHER_LANES, SCHEDULERS, SHARED_BYTES = 16, 64, 4, 128
LATENCY_SHARED, LATENCY_L2, LATENCY_MEMORY, LATENCY_SHUFFLE, LATENCY_BARRIER = 29, 263, 479, 23, 30
LATENCY_PRODUCT = {"mma.sync": 33, "wgmma": 64, "tcgen05": 180}
OLD_PRODUCTS_SHARE = 0.63
HOPPER_FLOPS_PER_CYCLE = 4096

# Products of a step, and those that wait for each other.
PRODUCTS = {"forward": (2, 2), "dq": (3, 2), "dkdv": (4, 3), "short": (5, 3)}
# Maximum and sum of a row: two exchanges each among the four lanes that share it.
EXCHANGES = 4
# Tensors of queries, keys, values, outputs or gradients that a kernel reads or writes, once each.
TENSORS = {"forward": 4, "dq": 5, "dkdv": 6, "short": 8, "delta": 2, "rotate": 2}


@dataclass(frozen=True)
class KernelCode:
    """One compiled Triton kernel: "forward", "dq", "dkdv" or "short", its tile and what it takes of an SM."""

    kernel: str
    rows: int
    columns: int
    warps: int
    stages: int
    head_size: int
    registers: int
    shared_bytes: int
    tensor_memory_columns: int
    instructions: Instructions


@dataclass(frozen=True)
class Calls:
    """What the kernel runs on: int [L] distinct lengths and their counts, `window` -1 for all keys."""

    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    window: int
    heads: int

    @property
    def tokens(self) -> int:
        return int((self.lengths * self.counts).sum())


@dataclass(frozen=True)
class Time:
    """`seconds` of the kernel alone, and why: cycles of a block at each unit, its waits, blocks an SM."""

    seconds: float
    compute_s: float
    traffic_s: float
    resident: int
    tensor: float
    special: float
    arithmetic: float
    shared: float
    waits: float


def kernel_time(gpu: Gpu, dtype: str, code: KernelCode, calls: Calls) -> Time:
    """Time of one launch; infinite where a block does not fit an SM."""
    resident = blocks_per_sm(
        gpu.compute_capability, code.warps, code.registers, code.shared_bytes, code.tensor_memory_columns
    )
    walked = stretches(code.rows, code.columns, calls.lengths, calls.counts, calls.window)
    blocks = walked.blocks * calls.heads
    if not resident or not blocks:
        return Time(np.inf if not resident else 0.0, 0.0, 0.0, resident, 0, 0, 0, 0, 0)
    units, issued = _demands(gpu, dtype, code, walked)
    clock = sustained_clock_hz(gpu, dtype)

    @cache
    def block_cycles(residents: float) -> float:
        return _response(units, code, walked, residents)

    waves = blocks / (gpu.sms * resident)
    left = blocks - int(waves) * gpu.sms * resident
    cycles = int(waves) * block_cycles(resident)
    if left:
        cycles += block_cycles(ceil(left / gpu.sms))
    # A block much longer than the mean ends alone.
    mean = walked.steps / walked.blocks
    if mean:
        alone = block_cycles(min(resident, ceil(blocks / gpu.sms)))
        cycles = max(cycles, alone * max(1.0, walked.longest / mean))
    traffic_s = _traffic_seconds(gpu, dtype, code, calls, issued.global_bytes * walked.blocks * calls.heads)
    compute_s = cycles / clock
    waits = _waits(code, walked, block_cycles(resident))
    return Time(_launch_s(gpu) + max(compute_s, traffic_s), compute_s, traffic_s, resident, *units, waits)


def moving_seconds(gpu: Gpu, dtype: str, kernel: str, calls: Calls, head_size: int) -> float:
    """Time of "rotate" or "delta", which only read and write."""
    moved = np.asarray(TENSORS[kernel] * _tensor_bytes(dtype, calls, head_size), dtype=np.float64)
    stream = gpu.calibration.stream
    return _launch_s(gpu) + float(traffic_seconds(gpu, moved, moved, stream.bytes_per_cycle))


def _demands(
    gpu: Gpu, dtype: str, code: KernelCode, walked: Stretches
) -> tuple[tuple[float, float, float, float], Mix]:
    """Cycles of an SM that one block of mean length takes at each unit, and what all its warps issue."""
    steps = _steps(code, walked)
    mix = code.instructions.straight
    for loop, count in zip(_loops(code), steps, strict=True):
        mix = mix + loop * (count / walked.blocks)
    mix = mix * code.warps
    lanes = 64 if gpu.compute_capability == (8, 0) else 128
    tensor, operands = _tensor_cycles(gpu, dtype, code, mix, walked.steps / walked.blocks)
    arithmetic = max(mix.issued / SCHEDULERS, mix.fma * WARP / lanes, mix.alu * WARP / OTHER_LANES)
    shared = (mix.shared_bytes + operands) / SHARED_BYTES
    return (tensor, mix.mufu * WARP / SPECIAL_LANES, arithmetic, shared), mix


def _tensor_cycles(gpu: Gpu, dtype: str, code: KernelCode, mix: Mix, steps: float) -> tuple[float, float]:
    """Cycles of the tensor cores, and the bytes that tcgen05 reads from shared memory."""
    rate = flops_per_cycle(gpu, "tf32" if dtype == "fp32" else dtype)
    kind = kind_of_product(code.instructions)
    if kind != "tcgen05":
        if kind == "mma.sync" and gpu.compute_capability[0] in (9, 10, 11):
            rate = OLD_PRODUCTS_SHARE * min(rate, HOPPER_FLOPS_PER_CYCLE)
        return mix.tensor_flops / rate, 0.0
    # Shapes are not in the listing: the tile's own. Half the rows take as long.
    rows, products = min(code.rows, 128), PRODUCTS[code.kernel][0]
    flops = 2.0 * code.rows * code.columns * code.head_size * products * (steps or 1.0)
    count = sum(loop.tcgen05 for loop in _loops(code)) / len(_loops(code)) if _loops(code) else mix.tcgen05
    from_shared = mix.tcgen05_shared / mix.tcgen05
    size, depth = BYTES_PER_ELEMENT[dtype], 16
    instructions = count * (steps or 1.0)
    columns = flops / (instructions * 2 * rows * depth)
    operands = instructions * depth * size * (columns + rows * from_shared)
    return flops / rate * (128 / rows), operands


def _response(units: tuple[float, ...], code: KernelCode, walked: Stretches, residents: float) -> float:
    """T(n) of `residents` blocks. Fewer than four warps leave schedulers idle."""
    customers = code.warps / SCHEDULERS
    demands = tuple(unit / customers for unit in units)
    total, waits = sum(demands), -1.0
    for _ in range(3):  # what is waited for depends on how long a step takes
        before, waits = waits, _waits(code, walked, total)
        if waits == before:
            break
        total = response_cycles(demands, waits, max(1.0, residents * customers))
    return total


def response_cycles(demands: tuple[float, ...], waits: float, n: float) -> float:
    """T(n), the fixed point of residences and customers; starts at an even spread. n is at least 1."""
    at = [n / len(demands)] * len(demands)
    total = sum(demands) + waits
    for _ in range(100):
        residence = [demand * (1 + (n - 1) / n * there) for demand, there in zip(demands, at, strict=True)]
        before, total = total, sum(residence) + waits
        at = [n * each / total for each in residence]
        if abs(total - before) < 1e-5 * total:
            break
    return total


def _waits(code: KernelCode, walked: Stretches, block_cycles: float) -> float:
    """Cycles that one block of mean length spends at no unit."""
    kind = kind_of_product(code.instructions)
    chain = PRODUCTS[code.kernel][1] * (LATENCY_PRODUCT[kind] + LATENCY_SHARED)
    steps = walked.steps / walked.blocks if code.instructions.loops else 0.0
    # The entry of the work list, then the block's own tile; the results are not waited for.
    waits: float = LATENCY_L2 + LATENCY_MEMORY
    waits += code.instructions.straight.barriers * LATENCY_BARRIER
    if not code.instructions.loops:
        shuffles: float = code.instructions.straight.shuffles
        return waits + chain + LATENCY_SHUFFLE * min(EXCHANGES, shuffles)
    step_cycles = block_cycles / max(steps, 1.0)
    late = max(0.0, LATENCY_L2 - (code.stages - 1) * step_cycles)
    for loop, count, starts in zip(_loops(code), _steps(code, walked), _starts(code, walked), strict=True):
        exchanges = min(EXCHANGES, loop.shuffles) if code.kernel == "forward" else 0
        each = chain + loop.barriers * LATENCY_BARRIER + exchanges * LATENCY_SHUFFLE + late
        # The first step of a loop waits for loads that nothing was done beside.
        waits += (count * each + starts * (LATENCY_L2 - late)) / walked.blocks
    return waits


def _loops(code: KernelCode) -> tuple[Mix, ...]:
    """The loops as the kernel walks them: masked, unmasked, masked; one where it is not split."""
    loops: tuple[Mix, ...] = code.instructions.loops
    if len(loops) <= 3 or not loops:
        return loops
    mean = loops[0]
    for loop in loops[1:]:
        mean = mean + loop
    return (mean * (1 / len(loops)),)


def _steps(code: KernelCode, walked: Stretches) -> tuple[float, ...]:
    match len(_loops(code)):
        case 0:
            return ()
        case 1:
            return (walked.steps,)
        case 2:
            return walked.full, walked.before + walked.after
        case _:
            return walked.before, walked.full, walked.after


def _starts(code: KernelCode, walked: Stretches) -> tuple[float, ...]:
    before, full, after = walked.starts
    match len(_loops(code)):
        case 0:
            return ()
        case 1:
            return (walked.blocks,)
        case 2:
            return full, after
        case _:
            return before, full, after


def kind_of_product(instructions: Instructions) -> str:
    """Which tensor-core instruction the kernel issues."""
    loops = (*instructions.loops, instructions.straight)
    if any(loop.tcgen05 for loop in loops):
        return "tcgen05"
    return "wgmma" if any(loop.wgmma for loop in loops) else "mma.sync"


def flops_per_cycle(gpu: Gpu, dtype: str) -> float:
    """Dense FLOPs of one SM in a cycle: a power of two, whatever clock the datasheet was written for."""
    return float(2 ** round(log2(gpu.dense_flops_per_s[dtype] / (gpu.sms * gpu.boost_hz))))


def _traffic_seconds(gpu: Gpu, dtype: str, code: KernelCode, calls: Calls, asked_bytes: float) -> float:
    """The longer of what all blocks ask of L2 and what goes to memory, everything once: all tiles of a head
    run before the next head's, so that blocks at work at one time walk the same keys, and L2 holds them."""
    moved = np.asarray(TENSORS[code.kernel] * _tensor_bytes(dtype, calls, code.head_size), dtype=np.float64)
    rate = SHARED["triton"].bytes_per_cycle
    once_s = float(traffic_seconds(gpu, moved, moved, rate))
    return max(once_s, asked_bytes / (gpu.sms * gpu.boost_hz * rate))


def _tensor_bytes(dtype: str, calls: Calls, head_size: int) -> float:
    return float(BYTES_PER_ELEMENT[dtype]) * calls.tokens * calls.heads * head_size


def _launch_s(gpu: Gpu) -> float:
    return gpu.calibration.stream.floor_s
