"""Tiles from the configurations of tuned tables. Imports neither torch nor triton."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .configs import Tile, Tiles


def tiles_of(forward: Mapping[str, Any] | None, backward: Mapping[str, Any] | None, default: Tiles) -> Tiles:
    """`default`, but for what configurations of attention_forward and attention_backward say."""
    tiles = default
    if forward is not None:
        tile = _tile(forward, "")
        tiles = replace(tiles, forward=tile, rotate_in_forward=forward["rotate"] == "load")
    if backward is not None:
        tiles = replace(tiles, rotate_in_backward=backward["rotate"] == "load")
        if backward["one_pass"]:
            rows = backward["rows"]
            return replace(tiles, short=Tile(rows, rows, backward["warps"], backward["stages"]))
        tiles = replace(tiles, short=None, dq=_tile(backward, "dq_"), dkdv=_tile(backward, "dkdv_"))
    return tiles


def _tile(config: Mapping[str, Any], of: str) -> Tile:
    names = ("rows", "columns", "warps", "stages", "split")
    return Tile(*(config[f"{of}{name}"] for name in names))
