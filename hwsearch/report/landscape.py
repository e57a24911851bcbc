"""What a tuning study saw, as a page: the search, the distribution of times, and which parameters matter."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path

from hwsearch.files import write_whole
from hwsearch.report.page import html_page

Setting = int | float | bool | str
Configuration = Mapping[str, Setting]

WIDTH, HEIGHT, LEFT, EDGE = 520, 260, 80, 30
# What a page draws at most, so that it opens at once: points of a plot, values of a parameter, reasons.
MOST_POINTS, MOST_VALUES, MOST_REASONS = 1000, 24, 20


@dataclass(frozen=True)
class Evaluation:
    """A configuration and what came of it: seconds of one call, or why there are none.

    Raises ValueError unless exactly one is given, and for seconds that are no positive finite number.
    """

    configuration: Configuration
    seconds: float | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.failure is None):
            raise ValueError(f"an evaluation has seconds or a failure: {self.seconds!r} and {self.failure!r}")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds: {self.seconds!r}; accepted: a positive number")


@dataclass(frozen=True)
class Landscape:
    """One tuning study.

    Attributes:
        key: the class of calls, in words.
        source: "measured" or "modelled".
        evaluations: in the order in which they were made.
        default, winner, alternatives: with the times of the final comparison; None and empty where there are
            none.
        versions: of what was used, by name.
    """

    kernel: str
    gpu: str
    key: str
    source: str
    workload: str
    evaluations: tuple[Evaluation, ...]
    default: Evaluation | None = None
    winner: Evaluation | None = None
    alternatives: tuple[Evaluation, ...] = ()
    versions: Mapping[str, str] | None = None

    @property
    def title(self) -> str:
        return f"{self.kernel} on {self.gpu}: {self.key}"

    @property
    def successes(self) -> list[tuple[Configuration, float]]:
        return [(e.configuration, e.seconds) for e in self.evaluations if e.seconds is not None]


def write_landscapes(path: Path, landscapes: Sequence[Landscape]) -> None:
    """One page of them all. Raises OSError."""
    write_whole(path, landscapes_html(landscapes))


def landscapes_html(landscapes: Sequence[Landscape]) -> str:
    """The page's text, with a table of contents where there are several."""
    contents = ""
    if len(landscapes) > 1:
        items = (f"<li><a href='#study{n}'>{escape(s.title)}</a></li>" for n, s in enumerate(landscapes))
        contents = f"<ol>{''.join(items)}</ol>"
    sections = (f"<section id='study{n}'>{_section(study)}</section>" for n, study in enumerate(landscapes))
    return html_page("hwsearch tune", f"<h1>hwsearch tune</h1>{contents}{''.join(sections)}")


def _section(study: Landscape) -> str:
    successes = study.successes
    failed = len(study.evaluations) - len(successes)
    versions = ", ".join(f"{name} {version}" for name, version in (study.versions or {}).items())
    about = (
        f"{len(study.evaluations):,} configurations, {failed:,} of which failed. Every time is"
        f" <b>{escape(study.source)}</b>. Lengths: {escape(study.workload)}."
        f"{' ' + escape(versions) + '.' if versions else ''}"
    )
    parts = [f"<h2>{escape(study.title)}</h2>", f"<p>{about}</p>", _chosen(study)]
    if successes:
        parts += ["<h3>Best so far by evaluation; dots are single configurations</h3>", _search(study)]
        parts += ["<h3>All times, sorted</h3>", _sorted(successes)]
        parts += _parameters(successes)
    if failed:
        parts += ["<h3>Failures</h3>", _failures(study.evaluations)]
    return "".join(parts)


def _chosen(study: Landscape) -> str:
    """Winner, alternatives and default side by side."""
    named = [("winner", study.winner), *(("alternative", e) for e in study.alternatives)]
    shown = [(name, e) for name, e in (*named, ("default", study.default)) if e is not None]
    if not shown:
        return "<p>No configuration was chosen.</p>"
    names = list(dict.fromkeys(name for _, e in shown for name in e.configuration))
    base_s = study.default.seconds if study.default else None
    rows = []
    for label, e in shown:
        faster = f"{base_s / e.seconds:.3f}x" if base_s and e.seconds else ""
        time = shown_seconds(e.seconds) if e.seconds else f"failed: {e.failure}"
        rows.append([label, time, faster, *(str(e.configuration.get(name, "")) for name in names)])
    return _table(["", "time", "over default", *names], rows)


def _search(study: Landscape) -> str:
    points = [(float(n), e.seconds) for n, e in enumerate(study.evaluations, 1) if e.seconds is not None]
    best = list(accumulate((seconds for _, seconds in points), min))
    steps = [(points[0][0], best[0])]
    for (number, _), before, now in zip(points[1:], best, best[1:], strict=False):
        if now < before:
            steps += [(number, before), (number, now)]
    steps.append((float(len(study.evaluations)), best[-1]))
    plot = _Plot.around([*points, *steps])
    marks = [plot.dot(x, y, "#9bd") for x, y in _thinned(points)] + [plot.line(steps, "#291")]
    if study.default and study.default.seconds and plot.low <= study.default.seconds <= plot.high:
        ends = [(plot.left, study.default.seconds), (plot.right, study.default.seconds)]
        marks.append(plot.line(ends, "#c30"))
    legend = " (red: default)" if study.default and study.default.seconds else ""
    return plot.svg(marks, f"evaluation 1 to {len(study.evaluations):,}{legend}")


def _sorted(successes: Sequence[tuple[Configuration, float]]) -> str:
    times = sorted(seconds for _, seconds in successes)
    points = [((rank + 0.5) / len(times), seconds) for rank, seconds in enumerate(times)]
    plot = _Plot.around(points)
    near = sum(seconds <= 1.05 * times[0] for seconds in times)
    text = f"share of configurations; {near:,} within 5 % of the fastest"
    return plot.svg([plot.line(_thinned(points), "#291"), plot.dot(*points[0], "#291")], text)


def _parameters(successes: Sequence[tuple[Configuration, float]]) -> list[str]:
    """A panel for each parameter, the one that explains most of the times first."""
    names = dict.fromkeys(name for configuration, _ in successes for name in configuration)
    groups = {name: _by_value(name, successes) for name in names}
    varied = [name for name in names if len(groups[name]) > 1]
    parts = []
    for share, name in sorted(((explained(groups[n].values()), n) for n in varied), reverse=True):
        parts.append(
            f"<figure><figcaption>{escape(name)}: explains {100 * share:.0f} % of the variance</figcaption>"
            f"{_panel(groups[name])}</figure>"
        )
    if parts:
        note = "Fastest (dot), middle half and slowest of the times at each value, whatever the others are."
        parts = ["<h3>Parameters</h3>", f"<p>{note} The variance is that of their logarithms.</p>", *parts]
    fixed = [f"{name} {next(iter(groups[name]))}" for name in names if name not in varied]
    return parts + ([f"<p>The same everywhere: {escape(', '.join(fixed))}.</p>"] if fixed else [])


def _by_value(
    name: str, successes: Sequence[tuple[Configuration, float]]
) -> dict[Setting | str, list[float]]:
    """Times by the parameter's value, in order; neighbouring values together where there are many."""
    found: dict[Setting | str, list[float]] = {}
    for configuration, seconds in successes:
        if name in configuration:
            found.setdefault(configuration[name], []).append(seconds)
    numbers = all(isinstance(value, int | float) for value in found)
    ordered = sorted(found, key=float if numbers else str)
    size = -(-len(ordered) // MOST_VALUES)
    chunks = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    return {
        chunk[0] if len(chunk) == 1 else f"{chunk[0]} .. {chunk[-1]}": [t for v in chunk for t in found[v]]
        for chunk in chunks
    }


def explained(groups: Iterable[Sequence[float]]) -> float:
    """Share of the variance of log times that lies between the groups, 0 to 1."""
    logs = [[math.log(seconds) for seconds in group] for group in groups]
    everything = [x for group in logs for x in group]
    mean = statistics.fmean(everything)
    whole = sum((x - mean) ** 2 for x in everything)
    between = sum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in logs)
    return min(1.0, between / whole) if whole > 0 else 0.0


def _panel(groups: Mapping[Setting | str, list[float]]) -> str:
    plot = _Plot.around([(float(n), t) for n, times in enumerate(groups.values()) for t in times], margin=0.5)
    marks = []
    for number, (value, times) in enumerate(groups.items()):
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        # quantiles of few values lie beyond them
        low, high = max(low, min(times)), min(high, max(times))
        title = (
            f"{value}: {len(times):,} configurations, fastest {shown_seconds(min(times))},"
            f" median {shown_seconds(middle)}"
        )
        whole = plot.line([(number, min(times)), (number, max(times))], "#9bd")
        half = plot.line([(number, low), (number, high)], "#369", 9)
        fastest = plot.dot(number, min(times), "#291")
        name = plot.label(number, str(value))
        marks.append(f"<g><title>{escape(title)}</title>{whole}{half}{fastest}{name}</g>")
    return plot.svg(marks, "")


def _failures(evaluations: Sequence[Evaluation]) -> str:
    """Reasons by how often they occurred."""
    counts = Counter(e.failure for e in evaluations if e.failure is not None).most_common()
    rows = [[f"{count:,}", reason] for reason, count in counts[:MOST_REASONS]]
    if others := counts[MOST_REASONS:]:
        rows.append([f"{sum(count for _, count in others):,}", f"{len(others):,} other reasons"])
    return _table(["configurations", "reason"], rows)


def shown_seconds(seconds: float) -> str:
    """Four digits and the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e6:.4g} µs"


@dataclass(frozen=True)
class _Plot:
    """A frame: x linear from left to right, seconds on a logarithmic axis from low to high."""

    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], margin: float = 0.0) -> _Plot:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return cls(min(xs) - margin, max(xs) + margin, min(ys), max(ys))

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / ((self.right - self.left) or 1.0)
        up = math.log(y / self.low) / (math.log(self.high / self.low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - EDGE), HEIGHT - EDGE - up * (HEIGHT - 2 * EDGE)

    def dot(self, x: float, y: float, colour: str) -> str:
        cx, cy = self.place(x, y)
        return f"<circle cx='{cx:.1f}' cy='{cy:.1f}' r='2.5' fill='{colour}'/>"

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int = 2) -> str:
        path = "L".join("{:.1f} {:.1f}".format(*self.place(x, y)) for x, y in points)
        return f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='{width}'/>"

    def label(self, x: float, text: str) -> str:
        cx, _ = self.place(x, self.low)
        short = text if len(text) <= 12 else f"{text[:11]}…"
        return f"<text x='{cx:.1f}' y='{HEIGHT - 10}' text-anchor='middle'>{escape(short)}</text>"

    def svg(self, marks: Iterable[str], below: str) -> str:
        frame = f"<path d='M{LEFT} {EDGE}V{HEIGHT - EDGE}H{WIDTH - EDGE}' fill='none' stroke='#999'/>"
        texts = (
            f"<text x='4' y='{EDGE + 4}'>{shown_seconds(self.high)}</text>"
            f"<text x='4' y='{HEIGHT - EDGE}'>{shown_seconds(self.low)}</text>"
            f"<text x='{LEFT}' y='{HEIGHT - 10}'>{escape(below)}</text>"
        )
        size = f"viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'"
        return f"<svg {size}>{frame}{texts}{''.join(marks)}</svg>"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Some of many, evenly spread, first and last among them."""
    if len(points) <= MOST_POINTS:
        return points
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(place * step)] for place in range(MOST_POINTS)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
