"""Default tiles of the attention kernels for each kind of GPU. Imports neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Rows of a tile; the work list has one entry a tile for each of these sizes.
TILE_SIZES = (16, 32, 64, 128)


@dataclass(frozen=True)
class Tile:
    """Score tile rows x columns of one program, its warps, and the depth of its load pipeline.

    Rows are what the program owns (queries; keys in dK/dV), columns what it loops over. `split`: blocks
    without a mask have a loop of their own; None: by `has_inner_blocks`.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    split: bool | None = None


def launch_options(tile: Tile) -> dict[str, int | bool]:
    """Triton's options for `tile`. Contracted multiply-adds are asked for: Triton 3.10 turns them off."""
    return {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}


def has_inner_blocks(tile: Tile, window: int, max_seqlen: int) -> bool:
    """Whether most blocks that a tile visits need no mask, and so get a loop without one.

    Of the rows + 2 * window keys that a tile of a local layer visits, 2 * window + 1 - rows are seen by all
    its rows: fewer than half where the window is under 1.5 times the rows. `window` is -1 for all keys.
    """
    return max_seqlen > 2 * tile.columns if window < 0 else 2 * window >= 3 * tile.rows


# Kernels that only read and write: they run at the speed of memory with any tile of this size.
DELTA_TILE = Tile(64, 0, 4, 1)
ROTATION_TILE = Tile(64, 0, 4, 1)


@dataclass(frozen=True)
class Tiles:
    """What one call of attention runs with.

    `short` is the tile of the one-pass backward, None where sequences do not fit one tile.
    `rotate_in_forward`, `rotate_in_backward`: rotary embedding is applied whenever a tile is loaded in a
    loop; otherwise what loops load is rotated once into scratch.
    """

    forward: Tile
    dq: Tile
    dkdv: Tile
    short: Tile | None
    rotate_in_forward: bool
    rotate_in_backward: bool


def default_tiles(
    capability: tuple[int, int], bytes_per_element: int, head_size: int, local: bool, max_seqlen: int
) -> Tiles:
    """Chosen from compiler output, no measurement: nothing spills, and inner loops are short.

    A load in a loop reads 4 bytes of cosine and sine for 2 of a key, for every tile of queries; scratch
    costs 2 written and 2 read once. So only sequences of one tile are rotated in the loop.
    """
    # 64 rows in local layers: of the 192 keys that they visit with the usual window of 64, each sees 129.
    narrow = local or max_seqlen <= 128
    if bytes_per_element == 4:
        forward, dq, dkdv = _tiles_of_float32(head_size)
    elif capability[0] == 9:
        forward, dq, dkdv = _tiles_of_hopper(head_size, narrow)
    elif capability[0] in (10, 11):
        forward, dq, dkdv = _tiles_of_blackwell(head_size, narrow)
    else:
        forward, dq, dkdv = _tiles_of_ampere(head_size, narrow, local)
    if max_seqlen <= 32 and bytes_per_element == 2:
        side = 16 if max_seqlen <= 16 else 32
        forward = Tile(side, side, 4 if head_size == 128 else 2, 1)
    elif max_seqlen <= 64:  # one block of keys, or two: nothing to load ahead
        forward = replace(forward, stages=1)
    short = _short_tile(capability, bytes_per_element, head_size, max_seqlen)
    in_backward = bytes_per_element == 2 and max_seqlen <= 32 and head_size <= 64
    return Tiles(forward, dq, dkdv, short, max_seqlen <= 64, in_backward)


def _tiles_of_ampere(head_size: int, narrow: bool, local: bool) -> tuple[Tile, Tile, Tile]:
    """mma.sync (sm_80, 86, 89, 120): operands in registers, so wide tiles spill; 99 KB holds two blocks."""
    large = head_size == 128
    if narrow:
        forward = Tile(64, 32, 4, 2 if large else 3)
    else:
        # 32 rows a warp read half the shared memory per product that 16 do.
        forward = Tile(128, 64, 8, 2) if large else Tile(128, 32, 4, 3)
    # Of head size 128 four warps spill 8 bytes in long loops; two stages 8 to 24 under wide windows.
    dq = Tile(64, 32, 8 if large and not narrow else 4, 1 if local and head_size != 64 else 2)
    return forward, dq, Tile(64, 32, 8 if large else 4, 2)


def _tiles_of_hopper(head_size: int, narrow: bool) -> tuple[Tile, Tile, Tile]:
    """wgmma (sm_90): four warps per 64 rows; of two blocks an SM one multiplies while one takes exp2."""
    large = head_size == 128
    forward = Tile(64, 64, 4, 2) if narrow else Tile(128, 64, 8, 3)
    if large:
        dq, dkdv = Tile(64, 64, 8, 2), Tile(64, 32, 8, 2)
    else:
        dq, dkdv = Tile(64, 64, 4, 2) if narrow else Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)
    return forward, dq, dkdv


def _tiles_of_blackwell(head_size: int, narrow: bool) -> tuple[Tile, Tile, Tile]:
    """tcgen05 (sm_100, 103): accumulators in tensor memory, of which a block of 128 x 64 takes half."""
    large = head_size == 128
    forward = Tile(64, 64, 4, 2) if narrow else Tile(128, 64, 8, 3)
    if large:
        # Two stages of the global loop spill 224 bytes.
        dq, dkdv = Tile(64, 64, 8, 2), Tile(64, 32, 8, 2 if narrow else 1)
    else:
        dq, dkdv = Tile(64, 64, 4, 2) if narrow else Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)
    return forward, dq, dkdv


def _tiles_of_float32(head_size: int) -> tuple[Tile, Tile, Tile]:
    """Three TF32 products per product, of operands twice as large."""
    if head_size == 128:
        return Tile(32, 32, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 4, 1)
    # Of head size 32 gradients spill 8 to 56 bytes with 32 columns.
    gradient = Tile(32, 16 if head_size == 32 else 32, 8, 2)
    return Tile(32, 32, 4, 2), gradient, gradient


def _short_tile(
    capability: tuple[int, int], bytes_per_element: int, head_size: int, max_seqlen: int
) -> Tile | None:
    if max_seqlen > 64:
        return None
    if max_seqlen <= 16 and bytes_per_element == 4:
        return Tile(16, 16, 4, 1)
    # Of head size 128 sm_100 spills 8 bytes.
    if max_seqlen <= 16 and head_size <= 64:
        return Tile(16, 16, 2, 1)
    if bytes_per_element == 4:
        return Tile(32, 32, 8, 1) if max_seqlen <= 32 and head_size <= 64 else None
    if max_seqlen <= 32:
        return Tile(32, 32, 4, 1)
    # sm_90 spills at head size 128 with four warps and with eight, sm_120 at 64 with eight.
    if capability[0] == 9 and head_size == 128:
        return None
    return Tile(64, 64, 4 if capability[0] in (9, 12) and head_size <= 64 else 8, 1)
