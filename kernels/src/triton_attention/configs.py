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
