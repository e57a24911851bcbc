"""Rows of tuned tables as lines of text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hwsearch.kernels.tuned import Config
from hwsearch.report.columns import aligned
from hwsearch.tuning.tables import Placed


def placed_table(placed: Sequence[Placed]) -> str:
    """A line a row: what it is for, how it was found, time, default time over it, settings."""
    lines = [["gpu", "kernel", "dtype", "head", "window", "up to", "found", "date", "ms", "gain", "with"]]
    for each in placed:
        row, key = each.row, each.row.key
        gain = "" if row.default_seconds is None else f"{row.default_seconds / row.seconds:.2f}"
        of = [each.table.gpu, each.table.kernel, key.dtype, str(key.head_size), key.window, str(key.length)]
        lines.append([*of, row.source, row.date, f"{1e3 * row.seconds:.4g}", gain, in_words(row.config)])
    files = dict.fromkeys(str(each.path) for each in placed)
    return "\n".join([*aligned(lines, left=11), "", *files])


def placed_json(placed: Sequence[Placed]) -> str:
    rows = [
        {"gpu": each.table.gpu, "kernel": each.table.kernel, "path": str(each.path)} | asdict(each.row)
        for each in placed
    ]
    return json.dumps(rows)


def in_words(config: Config) -> str:
    """As in "128x64, 8 warps, 3 stages, split, rotate in load"."""
    if "backend" in config:
        return str(config["backend"])
    rotate = f"rotate in {config['rotate']}"
    if config.get("one_pass"):
        return f"one pass, {config['rows']} rows, {config['warps']} warps, {rotate}"
    loops = ("dq_", "dkdv_") if "dq_rows" in config else ("",)
    return ", ".join([*(_loop(config, loop) for loop in loops), rotate])


def _loop(config: Config, of: str) -> str:
    text = f"{config[of + 'rows']}x{config[of + 'columns']}, {config[of + 'warps']} warps,"
    text += f" {config[of + 'stages']} stages" + (", split" if config[of + "split"] else "")
    return f"{of.rstrip('_')} {text}" if of else text
