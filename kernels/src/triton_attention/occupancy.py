"""How many blocks of a kernel one multiprocessor holds. Imports neither torch nor triton.

Limits: CUDA C++ Programming Guide, "Compute Capabilities", technical specifications per compute capability.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
REGISTERS_PER_SM = 64 * KIB
# Registers are given out by warp in units of 256, warps in fours (one for each of the SM's quarters).
REGISTER_UNIT = 256
WARP_UNIT = 4
# CUDA keeps 1 KiB of shared memory for itself in every block.
RESERVED_SHARED_BYTES = 1 * KIB
TENSOR_MEMORY_COLUMNS_PER_SM = 512


@dataclass(frozen=True)
class Limits:
    warps_per_sm: int
    blocks_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_block: int


LIMITS = {
    (7, 5): Limits(32, 16, 64 * KIB, 64 * KIB),
    (8, 0): Limits(64, 32, 164 * KIB, 163 * KIB),
    (8, 6): Limits(48, 16, 100 * KIB, 99 * KIB),
    (8, 9): Limits(48, 24, 100 * KIB, 99 * KIB),
    (9, 0): Limits(64, 32, 228 * KIB, 227 * KIB),
    (10, 0): Limits(64, 32, 228 * KIB, 227 * KIB),
    (10, 3): Limits(64, 32, 228 * KIB, 227 * KIB),
    (12, 0): Limits(48, 24, 100 * KIB, 99 * KIB),
}


def blocks_per_sm(
    capability: tuple[int, int], warps: int, registers: int, shared_bytes: int, tensor_memory_columns: int = 0
) -> int:
    """Resident blocks; 0 where one does not fit. `registers` are per thread, `shared_bytes` per block."""
    limits = LIMITS[capability]
    if shared_bytes > limits.shared_bytes_per_block:
        return 0
    registers_per_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    warps_by_registers = REGISTERS_PER_SM // registers_per_warp // WARP_UNIT * WARP_UNIT
    by_tensor_memory = (
        TENSOR_MEMORY_COLUMNS_PER_SM // tensor_memory_columns
        if tensor_memory_columns
        else limits.blocks_per_sm
    )
    return min(
        limits.blocks_per_sm,
        limits.warps_per_sm // warps,
        warps_by_registers // warps,
        limits.shared_bytes_per_sm // (shared_bytes + RESERVED_SHARED_BYTES),
        by_tensor_memory,
    )
