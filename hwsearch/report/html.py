"""A run's report as one page without scripts or outside files."""

from __future__ import annotations

from html import escape

import pandas as pd

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.report.contest import contest_html, read_contest
from hwsearch.report.measured_rung import measured_section
from hwsearch.report.page import html_page
from hwsearch.report.summary import Summary, read_measured, read_summary
from hwsearch.report.table import footnotes, mark, shown, verdicts
from hwsearch.search.run_folder import RunFolder

WIDTH, HEIGHT, MARGIN = 760, 420, 60
ROWS_SHOWN = 50


def write_report(folder: RunFolder) -> None:
    """Write report.html from the run's own files. Raises HwsearchError for an unfinished run."""
    summary, measured, contest = read_summary(folder), read_measured(folder), read_contest(folder)
    try:
        front = pd.read_csv(folder.front)
    except (OSError, ValueError) as error:
        raise HwsearchError(f"{folder.front}: cannot be read: {error}") from error
    try:
        page = report_html(summary, front, measured, contest)
    except (KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
        raise HwsearchError(
            f"{folder.path}: {folder.summary.name}, {folder.front.name} and {folder.measured_summary.name}"
            f" do not fit together ({error!r}); the same `hwsearch run` writes them again"
        ) from error
    write_whole(folder.report, page)


def report_html(
    summary: Summary,
    front: pd.DataFrame,
    measured: Summary | None = None,
    trained: Summary | None = None,
) -> str:
    title = f"hwsearch: {summary['space']}"
    counts = summary["counts"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{counts['grid']:,} shapes in the grid, {counts['candidates']:,} candidates,"
        f" {counts['front']:,} on the front. Every latency here is <b>{escape(summary['source'])}</b>"
        f"{', but for those of the section Measured' if measured else ''}:"
        f" {escape(summary['mode'])}, {escape(summary['runtime'])},"
        f" {escape(', '.join(summary['workloads']))}.</p>",
        measured_section(measured) if measured else "",
        f"<h2>{'Predicted winners' if measured else 'Winners'} against the reference</h2>",
        _winners(summary).to_html(index=False, border=0),
        *(f"<p>{escape(line)}</p>" for line in verdicts(summary)),
        "<p>x is the reference's latency over the shape's.</p>",
        *(f"<p>{escape(line)}</p>" for line in footnotes(summary)),
        contest_html(trained) if trained else "",
    ]
    upward = [o["name"] for o in summary["objectives"] if o["direction"] == "maximize"]
    for name in upward:
        parts += [f"<h2>Front: basket latency against {escape(name)}</h2>", _scatter(summary, front, name)]
    parts += [
        "<h2>What each constraint removed</h2>",
        pd.DataFrame(summary["removals"]).to_html(index=False, border=0),
        f"<h2>The front, best score first ({min(ROWS_SHOWN, len(front))} of {len(front)})</h2>",
        front.head(ROWS_SHOWN).to_html(index=False, border=0, float_format="{:.4g}".format),
    ]
    return html_page(title, "".join(parts))


def _winners(summary: Summary) -> pd.DataFrame:
    records = []
    for label, shape in shown(summary):
        record = {"": label, "shape": shape["shape"], "parameters": f"{shape['parameters']:,}"}
        record["prior"] = f"{shape['quality_prior'] / summary['reference']['quality_prior']:.3f}x"
        record["basket ms"] = f"{shape['basket_latency_ms']:.3f}"
        for gpu, ms, speedup in zip(summary["gpus"], shape["latency_ms"], shape["speedup"], strict=True):
            record[gpu["name"] + mark(gpu)] = f"{ms:.2f} ms ({speedup:.3f}x)"
        records.append(record)
    return pd.DataFrame(records)


def _scatter(summary: Summary, front: pd.DataFrame, name: str) -> str:
    """Basket latency to the right, the objective upward; the cross is the reference, dark the winners."""
    reference = next(o["reference"] for o in summary["objectives"] if o["name"] == name)
    own = summary["reference"]["basket_latency_ms"]
    xs, ys = front["basket_latency_ms"].tolist(), front[name].tolist()
    left, right = min([*xs, own]), max([*xs, own])
    low, high = min([*ys, reference]), max([*ys, reference])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / ((right - left) or 1.0)
        up = (y - low) / ((high - low) or 1.0)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    marks = []
    winners = {winner["shape"] for winner in summary["winners"]}
    for shape, x, y in zip(front["shape"], xs, ys, strict=True):
        cx, cy = place(x, y)
        fill = "#291" if shape in winners else "#9bd"
        title = f"{escape(str(shape))}: {x:.3f} ms, {y:.4g}"
        marks.append(
            f"<circle cx='{cx:.1f}' cy='{cy:.1f}' r='3' fill='{fill}'><title>{title}</title></circle>"
        )
    rx, ry = place(own, reference)
    marks.append(f"<path d='M{rx - 6} {ry}h12M{rx} {ry - 6}v12' stroke='#c30' stroke-width='2'/>")
    marks.append(
        f"<text x='{rx + 8:.1f}' y='{ry - 4:.1f}' fill='#c30'>{escape(summary['reference']['shape'])}</text>"
    )
    corners = (
        (MARGIN, HEIGHT - MARGIN + 18, f"{left:.3g} ms"),
        (WIDTH - MARGIN - 40, HEIGHT - MARGIN + 18, f"{right:.3g} ms"),
        (4, HEIGHT - MARGIN, f"{low:.4g}"),
        (4, MARGIN, f"{high:.4g}"),
    )
    labels = "".join(f"<text x='{x}' y='{y}'>{text}</text>" for x, y, text in corners)
    axes = f"<path d='M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}' fill='none' stroke='#999'/>"
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>{axes}{labels}{''.join(marks)}</svg>"
