"""Which attention kernels a GPU can run, which one it gets by default, and their score tiles."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu

KERNELS = ("fa2", "fa3", "fa4", "triton", "efficient", "math")
# Lowest and highest compute capability of each kernel, and whether it multiplies in 16 bit only. `efficient`
# is the CUTLASS kernel in every PyTorch; `math` is unfused: products, scale, mask and softmax by themselves.
# FA3 is built from wgmma instructions, FA4 is taken where tcgen05 exists; Triton has no tensor cores before
# 8.0.
_ACCEPTS: dict[str, tuple[tuple[int, int], tuple[int, int], bool]] = {
    "fa2": ((8, 0), (99, 0), True),
    "fa3": ((9, 0), (9, 9), True),
    "fa4": ((10, 0), (10, 9), True),
    "triton": ((8, 0), (99, 0), True),
    "efficient": ((0, 0), (99, 0), False),
    "math": ((0, 0), (99, 0), False),
}
_BEST_FIRST = ("fa4", "fa3", "fa2", "efficient")
# Cards with 100 KB of shared memory an SM, for which FA2 and Triton choose smaller tiles.
_SMALL_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0))


@dataclass(frozen=True)
class Tile:
    """Score tile of one thread block, queries x keys, and the head size that it pads to."""

    queries: int
    keys: int
    head_size: int


def accepts(gpu: Gpu, dtype: str, kernel: str) -> bool:
    lowest, highest, half_only = _ACCEPTS[kernel]
    return lowest <= gpu.compute_capability <= highest and (dtype in ("bf16", "fp16") or not half_only)


def best_kernel(gpu: Gpu, dtype: str) -> str:
    """The fastest kernel in PyTorch or flash-attention that this GPU runs in `dtype`."""
    return next(kernel for kernel in _BEST_FIRST if accepts(gpu, dtype, kernel))


def choose_kernel(gpu: Gpu, dtype: str, kernel: str | None) -> str:
    """`kernel`, or the best one for None; raises HwsearchError for one that this GPU cannot run."""
    if kernel is None:
        return best_kernel(gpu, dtype)
    if kernel not in KERNELS:
        raise HwsearchError(f"no attention kernel is called {kernel!r}; accepted: {', '.join(KERNELS)}")
    if not accepts(gpu, dtype, kernel):
        accepted = ", ".join(k for k in KERNELS if accepts(gpu, dtype, k))
        raise HwsearchError(f"{gpu.name} has no {kernel} attention in {dtype}; it has {accepted}")
    return kernel


def tile_of(kernel: str, capability: tuple[int, int], head_size: int, causal: bool, local: bool) -> Tile:
    """The tile that `kernel` takes for this head size and mask.

    FA2 and FA3: csrc/flash_attn/src/flash_fwd_launch_template.h and hopper/tile_size.h of flash-attention.
    FA4: two tiles of 128 queries a block. Triton: SGLang's prefill kernel. Efficient: CUTLASS's fused
    attention in PyTorch.
    """
    small = capability in _SMALL_SHARED_MEMORY
    match kernel:
        case "fa2":
            padded = _padded(head_size, (32, 64, 96, 128, 160, 192, 256))
            return Tile(*_fa2_tile(padded, small, causal), padded)
        case "fa3":
            padded = _padded(head_size, (64, 96, 128, 192, 256))
            return Tile(*_fa3_tile(padded, causal or local, local), padded)
        case "fa4":
            return Tile(256, 128, -(-head_size // 16) * 16)
        case "triton":
            side = 64 if capability < (9, 0) or capability >= (12, 0) else 128
            # Eight warps share a tile of 64 x 64 beyond 64: the L40S computes at half the rate then.
            slower = 2 if side == 64 and head_size > 64 else 1
            return Tile(side, side, slower * _power_of_two(head_size))
        case _:
            return Tile(64, 64 if head_size <= 64 else 128, -(-head_size // 8) * 8)


def _fa2_tile(padded: int, small: bool, causal: bool) -> tuple[int, int]:
    if padded <= 64:
        return 128, 128
    if padded <= 96:
        return (64, 64) if small and causal else (128, 64)
    if padded <= 128 and not small:
        return 128, 64
    if padded <= 160:
        return (64, 64) if small and causal else (128, 32)
    return (64, 64) if small and padded == 256 else (128, 64)


def _fa3_tile(padded: int, masked: bool, local: bool) -> tuple[int, int]:
    if padded == 64:
        return 192, 128 if masked else 192
    if padded == 96:
        return 192, 128 if local else 144
    if padded == 128:
        return 128, 128 if masked else 176
    if padded == 192:
        return 128, 96 if local else 112
    return 128, 64 if local else 80


def _padded(head_size: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that holds the head; multiples of 64 beyond them."""
    return next((size for size in sizes if size >= head_size), -(-head_size // 64) * 64)


def _power_of_two(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())
