"""A run's answer as a short text table."""

from __future__ import annotations

from typing import Any

from hwsearch.report.columns import aligned
from hwsearch.report.summary import Summary

PRIOR_AND_SCORE = (
    "prior: quality prior over the reference's, not an accuracy; score: the objectives' weighted sum of"
    " logarithms against the reference, smaller is better."
)


def answer_table(summary: Summary) -> str:
    """The reference, the winners and what beats the reference, each with its speedup on every GPU."""
    counts = summary["counts"]
    workloads = ", ".join(summary["workloads"])
    lines = [
        f"{summary['space']}: {counts['grid']:,} shapes in the grid, {counts['candidates']:,} candidates,"
        f" {counts['front']:,} on the Pareto front, {counts['recorded']:,} recorded in the study",
        f"{summary['mode']}, {summary['runtime']}; {workloads}",
        "Latency is predicted, one batch, geometric mean; x is the reference's latency over the shape's.",
        "",
        *aligned(winner_rows(summary)),
        "",
        *verdicts(summary),
        *footnotes(summary),
    ]
    return "\n".join(lines)


def winner_rows(summary: Summary) -> list[list[str]]:
    """A header, and a row for each shape worth showing."""
    gpus = [gpu["name"] + mark(gpu) for gpu in summary["gpus"]]
    header = ["", "shape", "params", "prior", "score", "basket ms", *gpus]
    return [header, *(_row(label, shape, summary["reference"]) for label, shape in shown(summary))]


def shown(summary: Summary) -> list[tuple[str, dict[str, Any]]]:
    """The shapes worth showing, each with its label: the reference first, then the winners."""
    rows = [("reference", summary["reference"])]
    rows += [(f"winner {rank}", shape) for rank, shape in enumerate(summary["winners"])]
    others = (("no worse", "fastest_no_worse"), ("like for like", "like_for_like"))
    return rows + [(label, summary[key]) for label, key in others if summary[key] is not None]


def footnotes(summary: Summary) -> list[str]:
    """What the numbers are, and how far they have been off."""
    notes = [
        PRIOR_AND_SCORE,
        f"Whole encoders with runtime {summary['runtime']} were predicted"
        f" {summary['end_to_end_error_percent']:.0f} % off (median) on public end-to-end tables;"
        " differences of a few percent between shapes are not proven.",
    ]
    if any(mark(gpu) for gpu in summary["gpus"]):
        notes.append("* constants not all fitted on this GPU; `hwsearch gpus show` tells their source.")
    return notes + _attention_notes(summary)


def _attention_notes(summary: Summary) -> list[str]:
    """How many kinds of layers tuned tables priced on each GPU, by where their times come from."""
    # Runs of earlier versions have none.
    priced: dict[tuple[str, str], list[float]] = {}
    for where, time in summary.get("attention", {}).items():
        for each in filter(None, (time["forward"], time["backward"])):
            of = f"{each['kernel']}, {each['source']} ({each['state']})"
            if each["source"] != "library":
                priced.setdefault((where.partition(",")[0], of), []).append(each["factor"])
    if not priced:
        return []
    parts = [f"{gpu}: {of}, {_range(factors)}" for (gpu, of), factors in priced.items()]
    return [
        f"attention by tuned tables, in units of what is predicted for libraries: {'; '.join(parts)};"
        " the rest as libraries run it. By kind of layer: run.yaml."
    ]


def _range(factors: list[float]) -> str:
    low, high = f"{min(factors):.2f}", f"{max(factors):.2f}"
    return f"x{low}" if low == high else f"x{low} to x{high}"


def verdicts(summary: Summary) -> list[str]:
    """Where the reference lands against the front, and whether a shape beats it like for like."""
    name, front, like = summary["reference"]["shape"], summary["fastest_no_worse"], summary["like_for_like"]
    found = "measured to be" if summary["source"] == "measured" else "predicted"
    if front is None:
        first = f"No candidate dominates the reference {name}: none is faster and no worse in any objective."
    else:
        gain = 100 * (front["basket_speedup"] - 1)
        first = f"no worse: {front['shape']} is {gain:.1f} % faster than {name} and worse in no objective."
    if like is None:
        second = (
            "like for like: no candidate with the reference's parameters (within 1 %), at least its depth and"
            f" no more local attention is {found} faster on every GPU."
        )
    else:
        gains = [100 * (speedup - 1) for speedup in like["speedup"]]
        second = (
            f"like for like: {like['shape']} has the reference's parameters (within 1 %), at least its depth,"
            " no more local attention, and is faster on every GPU,"
            f" by {min(gains):.1f} to {max(gains):.1f} %."
        )
    return [first, second]


def mark(gpu: dict[str, Any]) -> str:
    """A star where not all constants were fitted to operator timings of this very GPU, which matters where
    it is predicted."""
    fitted = gpu["calibration"] == "fitted" or gpu.get("source") == "measured"
    return "" if fitted else "*"


def _row(label: str, shape: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    score = f"{shape['score']:+.3f}" if "score" in shape else ""
    prior = f"{shape['quality_prior'] / reference['quality_prior']:.3f}x"
    cells = [label, shape["shape"], f"{shape['parameters'] / 1e6:.1f}M", prior, score]
    cells.append(f"{shape['basket_latency_ms']:.2f}")
    if shape is reference:
        return cells + [f"{ms:.2f}ms" for ms in shape["latency_ms"]]
    return cells + [f"{speedup:.3f}x" for speedup in shape["speedup"]]
