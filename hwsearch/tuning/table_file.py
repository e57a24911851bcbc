"""Writes tables of tuned configurations; `hwsearch.kernels.tuned_table` reads them and says how they look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.files import hold, make_folder, require_writable, write_whole
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.triton_attention.space import trimmed
from hwsearch.kernels.tuned_table import FORMAT, Row, Table, one_each, parse_table, read_table

# The next best that a row keeps beside its own.
ALTERNATIVES = 4
HEADER = ("kernel", "gpu", "devices", "compute_capability", "sms")
# Merging takes milliseconds, and another tuner may be at it.
PATIENCE_S = 30.0


def header_of(kernel: str, gpu: Gpu) -> Table:
    """The table of `kernel` on `gpu` without rows."""
    if gpu.name == CPU:
        return Table(kernel, CPU, (gpu.product,), None, gpu.sms)
    return Table(kernel, gpu.name, gpu.nvml_names, gpu.compute_capability, gpu.sms)


def merge_rows(path: Path, header: Table, rows: Sequence[Row]) -> None:
    """Add `rows` to the table in `path`, created where there is none; `header` is that table without rows.

    A row takes the place of the one with its key and source; all others stay, those too that another process
    adds meanwhile. Raises HwsearchError, and leaves the file as it was, where it cannot be read or is a table
    of something else, and where a row is none that the reader accepts.
    """
    try:
        parse_table(table_text(replace(header, rows=tuple(rows))))
    except ValueError as error:
        raise HwsearchError(f"{path}: not written: {error}") from error
    make_folder(path.parent)
    with hold(path.with_name(".lock"), f"{path}: another process has been writing it", PATIENCE_S):
        kept = {(row.key, row.source): row for row in _existing(path, header)}
        # Of two new rows with one key the last counts, whatever their dates.
        merged = kept | {(row.key, row.source): row for row in rows}
        write_whole(path, table_text(replace(header, rows=one_each(merged.values()))))


def require_mergeable(path: Path, header: Table) -> None:
    """Raise HwsearchError where `merge_rows` could not, before work goes into the rows."""
    require_writable(path)
    _existing(path, header)


def table_text(table: Table) -> str:
    """The file's text, a row a line."""
    lines = [
        f'{{"format": {FORMAT}, "kernel": {_json(table.kernel)}, "gpu": {_json(table.gpu)},',
        f'"devices": {_json(table.devices)}, "compute_capability": {_json(table.compute_capability)},'
        f' "sms": {_json(table.sms)},',
        '"rows": [',
        *(f"{_json(record_of(row))}," for row in table.rows),
        "null]}",
    ]
    return "\n".join(lines) + "\n"


def _existing(path: Path, header: Table) -> tuple[Row, ...]:
    try:
        table = read_table(path)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise HwsearchError(
            f"{path}: {reason}; it is left as it is: mend it, or move it away and tune again"
        ) from error
    for name in HEADER:
        found, accepted = getattr(table, name), getattr(header, name)
        # A profile may have learned a further name of its device.
        same = found == accepted or (name == "devices" and not set(found).isdisjoint(accepted))
        if not same:
            raise HwsearchError(
                f"{path}: {name}: {_json(found)}; these rows are of {_json(accepted)}:"
                " another HWSEARCH_CACHE holds tables of their own"
            )
    rows: tuple[Row, ...] = table.rows
    return rows


def record_of(row: Row) -> dict[str, object]:
    """What a line of a table holds; settings that say nothing are left out."""
    key = row.key
    return {
        "dtype": key.dtype,
        "head_size": key.head_size,
        "window": key.window,
        "length": key.length,
        "source": row.source,
        "config": trimmed(row.config),
        "seconds": row.seconds,
        "default_seconds": row.default_seconds,
        "alternatives": [{"config": trimmed(config), "seconds": s} for config, s in row.alternatives],
        "workload": row.workload,
        "heads": row.heads,
        "spread": row.spread,
        "joules": row.joules,
        "triton": row.triton,
        "torch": row.torch,
        "driver": row.driver,
        "date": row.date,
        "method": row.method,
    }


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise HwsearchError(f"a row of a table: {error}") from error
