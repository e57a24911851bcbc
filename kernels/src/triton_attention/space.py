"""Every configuration of the attention kernels that is worth compiling for a GPU. No torch, no triton.

What is left out, and where the rule comes from:

- rows are sizes that the work list has (`TILE_SIZES`); columns are at least 16, the depth of one
  tensor-core product of 16-bit numbers (PTX, mma.m16n8k16) and the least that `tl.dot` takes;
- neither goes beyond the power of two that holds the longest sequence: the same blocks, more of them empty;
- rows are at least a quarter of that and of 128 (half in the backward kernels, whose product has to stay a
  few thousand), columns 32 where sequences are longer: every tile of queries loads all the keys again;
- float32 takes half of all these bounds, and of the scores below: its operands are twice as large;
- 16 rows a warp, one instruction's (mma.sync) or a quarter of wgmma's and tcgen05's 64: what further warps do
  is a repetition. Eight warps on 64 rows stay where Triton lets them share the columns, on wgmma and tcgen05,
  and at head size 128, where four spill (AccelerateMatmul.cpp, warpsPerTileV2 and V3; seen in layouts);
- 8 to 128 scores a thread forward (128 x 128 on four warps is FlashAttention-2's), 16 to 64 backward, where a
  second tile of scores is held;
- accumulators: a thread holds its share of float32 scores and sums, and has 255 registers (CUDA Programming
  Guide); the sums of tcgen05 are in tensor memory, only scores pass through registers;
- shared memory: the stages less one that Triton keeps of the loop's two operands must fit a block
  (`occupancy.LIMITS`). Less than what the compiler takes, so that nothing that fits is dropped;
- more stages than blocks in the longest loop have nothing to load ahead, three are the most backward;
- a loop without a mask (`split`) needs a block that needs none: a sequence longer than one, a window that
  all rows of a tile share a block of. Backward, dQ and dK/dV both have it or both not;
- one pass only where a tile holds the longest sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import product
from typing import Any

from .configs import TILE_SIZES, Tile, default_tiles, has_inner_blocks
from .occupancy import LIMITS

Config = dict[str, Any]
KERNELS = ("attention_forward", "attention_backward")
BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
ROWS = TILE_SIZES
COLUMNS = (16, 32, 64, 128)
WARPS = (1, 2, 4, 8)
# Of the 255 a thread can have, what is left of them for accumulators when addresses have theirs.
ACCUMULATORS = 240
# Scores a thread, at least and at most, and stages at most.
FORWARD_LIMITS, BACKWARD_LIMITS = (8, 128, 4), (16, 64, 3)
ABSENT = {
    "rows": 0, "warps": 0, "stages": 0,
    "dq_rows": 0, "dq_columns": 0, "dq_warps": 0, "dq_stages": 0, "dq_split": False,
    "dkdv_rows": 0, "dkdv_columns": 0, "dkdv_warps": 0, "dkdv_stages": 0, "dkdv_split": False,
}  # fmt: skip


def space_of(
    kernel: str, capability: tuple[int, int], dtype: str, head_size: int, window: int | None, max_seqlen: int
) -> list[Config]:
    """All configurations of `kernel`, each once, the default among them.

    `window`: keys to each side, None for all. Those of attention_backward all have the same keys, 0 or
    False where they say nothing (`trimmed` takes these out). Raises ValueError for an unknown kernel, dtype
    or capability.
    """
    check(kernel, capability, dtype)
    if window is not None and window >= max_seqlen - 1:
        window = None
    default = default_config(kernel, capability, dtype, head_size, window, max_seqlen)
    call = (capability, dtype, head_size, window, max_seqlen)
    if kernel == "attention_forward":
        found = [
            {**_settings(tile), "rotate": rotate}
            for rotate in ("load", "scratch")
            for tile in tiles_of_kernel("forward", *call, rotate)
        ]
    else:
        found = [dict(ABSENT, one_pass=True, rotate=r, **t) for r, t in _one_pass(*call)]
        found += [dict(ABSENT, one_pass=False, rotate=r, **dq, **dkdv) for r, dq, dkdv in _two_kernels(*call)]
        found = [{name: c[name] for name in default} for c in found]
    return found if default in found else [default, *found]


def default_config(
    kernel: str, capability: tuple[int, int], dtype: str, head_size: int, window: int | None, max_seqlen: int
) -> Config:
    """What an untuned call runs with, as a configuration."""
    check(kernel, capability, dtype)
    if window is not None and window >= max_seqlen - 1:
        window = None
    default = default_tiles(capability, BYTES[dtype], head_size, window is not None, max_seqlen)
    keys = -1 if window is None else window
    if kernel == "attention_forward":
        return {
            **_settings(_split(default.forward, keys, max_seqlen)),
            "rotate": _rotate(default.rotate_in_forward),
        }
    common = {"one_pass": default.short is not None, **ABSENT, "rotate": _rotate(default.rotate_in_backward)}
    if default.short is not None:
        return common | _short_settings(default.short)
    dq = _settings(_split(default.dq, keys, max_seqlen), "dq_")
    return common | dq | _settings(_split(default.dkdv, keys, max_seqlen), "dkdv_")


def trimmed(config: Mapping[str, Any]) -> Config:
    """Without the settings that say nothing: those of two kernels in one pass, and the other way round."""
    if "one_pass" not in config:
        return dict(config)
    kept = ("rows", "warps", "stages") if config["one_pass"] else tuple(k for k in ABSENT if "_" in k)
    return {name: config[name] for name in config if name not in ABSENT or name in kept}


def check(kernel: str, capability: tuple[int, int], dtype: str) -> None:
    """Raise ValueError for what there are no configurations of."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel: {kernel!r}; accepted: {', '.join(KERNELS)}")
    if dtype not in BYTES:
        raise ValueError(f"dtype: {dtype!r}; accepted: {', '.join(BYTES)}")
    known = [c for c in LIMITS if c >= (8, 0)]
    if tuple(capability) not in known:
        accepted = ", ".join(f"{major}.{minor}" for major, minor in known)
        raise ValueError(f"compute capability: {capability}; accepted: {accepted}")


@lru_cache(64)
def tiles_of_kernel(
    kernel: str, capability: tuple[int, int], dtype: str, head_size: int, window: int | None,
    max_seqlen: int, rotate: str,
) -> tuple[Tile, ...]:  # fmt: skip
    """The tiles of one Triton kernel, "forward", "dq" or "dkdv", each without and with a loop of its own for
    blocks that need no mask, where there are such."""
    size = BYTES[dtype]
    halved = size // 2
    longest = max(16, 1 << (max_seqlen - 1).bit_length())
    most_rows = min(longest, TILE_SIZES[-1] // halved)
    fewest_rows = most_rows // (4 if kernel == "forward" else 2)
    least, most, deepest = FORWARD_LIMITS if kernel == "forward" else BACKWARD_LIMITS
    found = []
    for rows, columns, warps, stages in product(TILE_SIZES, COLUMNS, WARPS, range(1, deepest + 1)):
        if not fewest_rows <= rows <= most_rows or not min(32 // halved, longest) <= columns <= longest:
            continue
        scores = rows * columns / (32 * warps)
        if not least / halved <= scores <= most / halved or not _divides(rows, warps, head_size, capability):
            continue
        if accumulators(kernel, rows, columns, head_size, warps, capability, size) > ACCUMULATORS:
            continue
        reach = max_seqlen if window is None else min(max_seqlen, rows + 2 * window)
        if stages > -(-reach // columns):
            continue
        if staged_bytes(columns, stages, head_size, size, rotate) > LIMITS[capability].shared_bytes_per_block:
            continue
        found.append(Tile(rows, columns, warps, stages, split=False))
        if max_seqlen > columns and (window is None or 2 * window + 2 - rows >= columns):
            found.append(Tile(rows, columns, warps, stages, split=True))
    return tuple(found)


def _one_pass(
    capability: tuple[int, int], dtype: str, head_size: int, window: int | None, max_seqlen: int
) -> Iterator[tuple[str, Config]]:
    side = next((rows for rows in TILE_SIZES if rows >= max_seqlen), None)
    if side is None:
        return
    for warps in WARPS:
        # Scores, their gradient, and the three gradients; one tile each.
        registers = (2 * side * side + 3 * side * head_size) / (32 * warps)
        if _divides(side, warps, head_size, capability) and registers <= 2 * ACCUMULATORS:
            # No loop: nothing to load ahead.
            tile = Tile(side, side, warps, 1)
            yield "load", _short_settings(tile)
            yield "scratch", _short_settings(tile)


def _two_kernels(
    capability: tuple[int, int], dtype: str, head_size: int, window: int | None, max_seqlen: int
) -> Iterator[tuple[str, Config, Config]]:
    call = (capability, dtype, head_size, window, max_seqlen)
    for rotate in ("load", "scratch"):
        dq = [_settings(tile, "dq_") for tile in tiles_of_kernel("dq", *call, rotate)]
        dkdv = [_settings(tile, "dkdv_") for tile in tiles_of_kernel("dkdv", *call, rotate)]
        yield from (
            (rotate, *both) for both in product(dq, dkdv) if both[0]["dq_split"] == both[1]["dkdv_split"]
        )


def _divides(rows: int, warps: int, head_size: int, capability: tuple[int, int]) -> bool:
    shared_columns = capability[0] in (9, 10, 11) or head_size == 128
    return warps <= rows // 16 or (rows == 64 and warps == 8 and shared_columns)


def staged_bytes(columns: int, stages: int, head_size: int, size: int, rotate: str) -> int:
    """Shared memory that a loop's pipeline takes at least."""
    # Rotated in the load, an operand passes through registers: K forward, Q or K backward.
    operands = 1 if rotate == "load" else 2
    return (stages - 1) * operands * columns * head_size * size


def accumulators(
    kernel: str, rows: int, columns: int, head_size: int, warps: int, capability: tuple[int, int], size: int
) -> float:
    """Registers a thread needs for float32 accumulators at least."""
    tiles = 1 if kernel == "forward" else 2  # the scores and, backward, their gradient
    kept = 2 if kernel == "dkdv" else 1  # dK and dV, dQ, or the output
    in_tensor_memory = capability[0] in (10, 11) and rows >= 64 and warps >= 4 and size == 2
    held = 0 if in_tensor_memory else kept * rows * head_size
    return (tiles * rows * columns + held) / (32 * warps)


def _rotate(in_load: bool) -> str:
    return "load" if in_load else "scratch"


def _settings(tile: Tile, prefix: str = "") -> Config:
    return {prefix + name: value for name, value in asdict(tile).items()}


def _split(tile: Tile, window: int, max_seqlen: int) -> Tile:
    return replace(tile, split=has_inner_blocks(tile, window, max_seqlen))


def _short_settings(tile: Tile) -> Config:
    return {"rows": tile.rows, "warps": tile.warps, "stages": tile.stages}
