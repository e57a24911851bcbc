"""Default tiles of the attention kernels for each kind of GPU. Imports neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Score tile rows x columns of one program, its warps, and the depth of its load pipeline.

    Rows are what the program owns (queries; keys in dK/dV), columns what it loops over.
    """

    rows: int
    columns: int
    warps: int
    stages: int


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
    `rotate_in_load`: rotary embedding is applied whenever a tile is loaded; otherwise q and k are
    rotated once into scratch, which pays where each key is loaded for many tiles of queries.
    """

    forward: Tile
    dq: Tile
    dkdv: Tile
    short: Tile | None
    rotate_in_load: bool


def default_tiles(
    capability: tuple[int, int], bytes_per_element: int, head_size: int, local: bool, max_seqlen: int
) -> Tiles:
    side = 32 if bytes_per_element == 4 else 64
    tile = Tile(side, side, 4, 2)
    short = Tile(64, 64, 4, 1) if max_seqlen <= 64 else None
    return Tiles(tile, tile, tile, short, local or max_seqlen <= 512)
