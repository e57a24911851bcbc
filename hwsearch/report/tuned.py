"""Rows of tuned tables as lines of text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from hwsearch.kernels.tuned import Config
from hwsearch.report.columns import aligned
from hwsearch.report.tuning_page import Search
from hwsearch.tuning.ranking import of_model
from hwsearch.tuning.tables import Placed, in_force


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


def model_lines(searches: Sequence[Search]) -> list[str]:
    """How good the model's choice was, for each measured row whose key was modelled, too."""
    lines = []
    for placed, looked_at in searches:
        table, key = placed.table, placed.row.key
        modelled = in_force([table.kernel], table.gpu, ["modelled"])
        rows = [each.row for each in modelled if each.row.key == key]
        timed = [(each.config, each.seconds) for each in looked_at if each.seconds is not None]
        if placed.row.source != "measured" or not rows:
            continue
        if (ranked := of_model(rows[0], timed)) is not None:
            needed = "none" if ranked.needed is None else f"number {ranked.needed}"
            loss, both = ranked.top_loss_percent, ranked.configurations
            lines.append(
                f"{table.kernel} {key}: the model's first choice is {loss:.1f} % slower than the fastest;"
                f" within 2 % of that is {needed} of the {both} that were modelled and measured"
            )
    return lines


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
