"""The measured rung's answer: winners, and every measured shape beside its prediction."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd

from hwsearch.report.columns import aligned
from hwsearch.report.summary import Summary
from hwsearch.report.table import PRIOR_AND_SCORE, verdicts, winner_rows

ROWS_SHOWN = 40
SIZE, MARGIN = 420, 60
ORDER = (
    "order: Kendall's tau, the share of pairs of shapes that both rank alike less that of those they do not;"
    " at equal size: over pairs within 1 % of each other's parameters, where size alone says nothing."
)


def measured_table(summary: Summary) -> str:
    """The winners, then predicted against measured for each shape and GPU."""
    counts = summary["counts"]
    lines = [
        f"{summary['space']}: {counts['measured']:,} of {counts['priced']:,} candidates measured besides the"
        f" reference, {counts['failed']:,} failed; {counts['front']:,} on the measured front",
        f"{summary['mode']}, {summary['runtime']}; {', '.join(summary['workloads'])}",
        *origins(summary),
        "",
        *aligned(winner_rows(summary)),
        "",
        *verdicts(summary),
        "",
        "Predicted against measured, latency of a batch:",
        *aligned(_pairs(summary)),
        *_remarks(summary),
        "",
        *(line for gpu in summary["accuracy"] for line in [accuracy_line(summary, gpu)]),
        ORDER,
        PRIOR_AND_SCORE,
        *failures(summary),
    ]
    return "\n".join(lines)


def origins(summary: Summary) -> list[str]:
    """Which latencies were measured, and on what."""
    lines = [f"Measured on {gpu}: {device}." for gpu, device in summary["devices"].items()]
    if predicted := [gpu["name"] for gpu in summary["gpus"] if gpu["source"] != "measured"]:
        lines.append(f"No device measured {', '.join(predicted)}: predicted there.")
    shapes = summary["shapes"]
    for gpu in summary["devices"]:
        if missing := sum(gpu not in row["measured_ms"] for row in shapes):
            lines.append(f"{missing} of {len(shapes)} shapes have no time on {gpu}: predicted there.")
    if disturbed := sum(bool(row["taint"]) for row in shapes):
        lines.append(
            f"{disturbed} of {len(shapes)} shapes (!) were disturbed as they were measured, three"
            " times over: do not trust a gain that they show."
        )
    if summary["exhausted"]:
        lines.append("No shape that is left promises anything more.")
    return [*lines, "x is the reference's latency over the shape's."]


def accuracy_line(summary: Summary, gpu: str) -> str:
    found = summary["accuracy"][gpu]
    bias = found["bias"]
    side = "too fast" if bias < 0 else "too slow"
    text = (
        f"{gpu}: over {found['shapes']} shapes the prediction is {100 * found['median_error']:.1f} % off"
        f" (median), and {100 * abs(bias):.1f} % {side}"
    )
    if found["order"] is not None:
        text += f"; order {found['order']:+.2f}"
    if found["equal_order"] is None:
        return f"{text}; no two are of equal size."
    pairs = "1 pair" if found["equal_pairs"] == 1 else f"{found['equal_pairs']} pairs"
    return f"{text}, at equal size {found['equal_order']:+.2f} ({pairs})."


def failures(summary: Summary) -> list[str]:
    """A line a shape that could not be measured, the first ones."""
    failed = summary["failed"]
    lines = [f"{each['shape']} cannot be measured on {each['gpu']}: {each['failure']}" for each in failed]
    if len(failed) > ROWS_SHOWN:
        lines = [*lines[:ROWS_SHOWN], f"and {len(failed) - ROWS_SHOWN} more, in measured.json"]
    return lines


def measured_section(summary: Summary) -> str:
    """What report.html says of the rung."""
    counts = summary["counts"]
    table = _pairs(summary)
    parts = [
        "<h2>Measured</h2>",
        f"<p>{counts['measured']:,} of {counts['priced']:,} candidates measured besides the reference,"
        f" {counts['failed']:,} failed; {counts['front']:,} on the measured front.</p>",
        *(f"<p>{escape(line)}</p>" for line in origins(summary)),
        _frame(winner_rows(summary)),
        *(f"<p>{escape(line)}</p>" for line in verdicts(summary)),
        "<h3>Predicted against measured</h3>",
    ]
    for gpu in summary["accuracy"]:
        parts += [f"<p>{escape(accuracy_line(summary, gpu))}</p>", _parity(summary, gpu)]
    parts += [f"<p>{escape(line)}</p>" for line in (ORDER, PRIOR_AND_SCORE)]
    parts += [_frame(table), *(f"<p>{escape(x)}</p>" for x in _remarks(summary))]
    parts += [f"<p>{escape(line)}</p>" for line in failures(summary)]
    if summary["hypervolume"]:
        parts += [
            "<h3>Hypervolume by measured shape</h3>",
            "<p>Share of what the last front dominates, after each shape.</p>",
            _hypervolume(summary),
        ]
    return "".join(parts)


def _pairs(summary: Summary) -> list[list[str]]:
    """Header and a row a shape: by GPU measured latency, its standard error, what is predicted; peaks."""
    gpus = list(summary["accuracy"])
    header = ["", "shape", "params"]
    for gpu in gpus:
        header += [f"{gpu} ms", "+-", "predicted ms", "ratio", "peak MiB", "predicted MiB"]
    rows = [header]
    for number, row in enumerate(summary["shapes"][: ROWS_SHOWN + 1]):
        label = "reference" if row["is_reference"] else str(number)
        cells = [label + ("*" if row["on_front"] else ""), row["shape"], f"{row['parameters'] / 1e6:.1f}M"]
        for gpu in gpus:
            cells += _on_gpu(row, gpu)
        rows.append(cells)
    return rows


def _on_gpu(row: dict[str, Any], gpu: str) -> list[str]:
    predicted, measured = row["predicted_ms"][gpu], row["measured_ms"].get(gpu)
    if measured is None:  # its device had left
        return ["", "", f"{predicted:.2f}", "", "", ""]
    peak = row["measured_bytes"][gpu]
    return [
        f"{measured:.2f}",
        f"{100 * row['error'][gpu]:.1f}%{'!' if gpu in row['taint'] else ''}",
        f"{predicted:.2f}",
        f"{measured / predicted:.3f}",
        "" if peak is None else f"{peak / 2**20:.0f}",
        f"{row['predicted_bytes'][gpu] / 2**20:.0f}",
    ]


def _remarks(summary: Summary) -> list[str]:
    """What the marks of the table mean, and what it leaves out."""
    shapes = summary["shapes"]
    remarks = ["* on the measured front; +-: standard error; ratio: measured / predicted; peak: of tensors."]
    if disturbed := [row for row in shapes if row["taint"]]:
        first = next(iter(disturbed[0]["taint"].values()))
        remarks.append(
            f"! disturbed as it was measured; the first: {first}. All {len(disturbed)} are in measured.csv."
        )
    if len(shapes) > ROWS_SHOWN + 1:
        remarks.append(f"{len(shapes) - ROWS_SHOWN - 1:,} more shapes are in measured.csv.")
    return remarks


def _frame(rows: list[list[str]]) -> str:
    # As text: pandas escapes it.
    header = [name or " " for name in rows[0]]
    frame = pd.DataFrame(rows[1:], columns=pd.Index(header))
    return frame.to_html(index=False, border=0)


def _parity(summary: Summary, gpu: str) -> str:
    """Predicted to the right, measured upward, both logarithmic; the cross is the reference."""
    pairs = [
        (row["predicted_ms"][gpu], row["measured_ms"][gpu], row)
        for row in summary["shapes"]
        if gpu in row["measured_ms"]
    ]
    low = min(min(x, y) for x, y, _ in pairs) / 1.05
    high = max(max(x, y) for x, y, _ in pairs) * 1.05

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log(value / low) / math.log(high / low) for value in (x, y))
        inner = SIZE - 2 * MARGIN
        return MARGIN + across * inner, SIZE - MARGIN - up * inner

    marks = [_line([place(low, low), place(high, high)], "#bbb")]
    for x, y, row in pairs:
        cx, cy = place(x, y)
        title = f"{row['shape']}: predicted {x:.3f} ms, measured {y:.3f} ms"
        colour = "#c30" if row["is_reference"] else "#291" if row["on_front"] else "#9bd"
        circle = f"<circle cx='{cx:.1f}' cy='{cy:.1f}' r='4' fill='{colour}'>"
        marks.append(f"{circle}<title>{escape(title)}</title></circle>")
    corners = (f"{low:.3g} ms", f"{high:.3g} ms")
    return _svg(marks, SIZE, corners, corners, f"predicted on {gpu} (red: the reference; green: the front)")


def _hypervolume(summary: Summary) -> str:
    shares = summary["hypervolume"]
    width = 2 * SIZE - 2 * MARGIN

    def place(number: int, share: float) -> tuple[float, float]:
        across = number / max(len(shares) - 1, 1)
        return MARGIN + across * width, SIZE - MARGIN - share * (SIZE - 2 * MARGIN)

    line = _line([place(number, share) for number, share in enumerate(shares)], "#291")
    return _svg([line], 2 * SIZE, ("first", f"{len(shares)} measured"), ("0", "1"), "")


def _line(points: list[tuple[float, float]], colour: str) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>"


def _svg(marks: list[str], width: int, across: tuple[str, str], up: tuple[str, str], below: str) -> str:
    """A frame with a label at both ends of each axis."""
    bottom, right = SIZE - MARGIN, width - MARGIN
    texts = (
        (MARGIN, bottom + 18, across[0], "start"),
        (right, bottom + 18, across[1], "end"),
        ((MARGIN + right) / 2, bottom + 36, below, "middle"),
        (MARGIN - 4, bottom, up[0], "end"),
        (MARGIN - 4, MARGIN, up[1], "end"),
    )
    labels = "".join(
        f"<text x='{x}' y='{y}' text-anchor='{anchor}'>{escape(text)}</text>" for x, y, text, anchor in texts
    )
    axes = f"<path d='M{MARGIN} {MARGIN}V{bottom}H{right}' fill='none' stroke='#999'/>"
    return f"<svg viewBox='0 0 {width} {SIZE}' width='{width}'>{axes}{labels}{''.join(marks)}</svg>"
