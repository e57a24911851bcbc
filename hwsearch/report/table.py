"""A run's answer as a short text table."""

from __future__ import annotations

from typing import Any

from hwsearch.report.columns import aligned
from hwsearch.report.summary import Summary


def answer_table(summary: Summary) -> str:
    """The reference, the winners and what beats the reference, each with its speedup on every GPU."""
    counts, gpus = summary["counts"], summary["gpus"]
    workloads = ", ".join(summary["workloads"])
    lines = [
        f"{summary['space']}: {counts['grid']:,} shapes in the grid, {counts['candidates']:,} candidates,"
        f" {counts['front']:,} on the Pareto front, {counts['recorded']:,} recorded in the study",
        f"{summary['mode']}, {summary['runtime']}; {workloads}",
        "Latency is predicted, one batch, geometric mean; x is the reference's latency over the shape's.",
        "",
    ]
    header = ["", "shape", "params", "basket ms", *(gpu["name"] + mark(gpu) for gpu in gpus)]
    rows = [_row("reference", summary["reference"], milliseconds=True)]
    rows += [_row(f"winner {rank}", shape) for rank, shape in enumerate(summary["winners"])]
    for label, key in (("no worse", "fastest_no_worse"), ("like for like", "like_for_like")):
        if summary[key] is not None:
            rows.append(_row(label, summary[key]))
    lines += [*aligned([header, *rows]), "", *verdicts(summary)]
    if any(mark(gpu) for gpu in gpus):
        lines.append("* constants not all fitted on this GPU; `hwsearch gpus show` tells their source.")
    return "\n".join(lines)


def verdicts(summary: Summary) -> list[str]:
    """Where the reference lands against the front, and whether a shape beats it like for like."""
    name, front, like = summary["reference"]["shape"], summary["fastest_no_worse"], summary["like_for_like"]
    if front is None:
        first = (
            f"The reference {name} lies on the front: no candidate is faster and no worse in any objective."
        )
    else:
        gain = 100 * (front["basket_speedup"] - 1)
        first = f"no worse: {front['shape']} is {gain:.1f} % faster than {name} and worse in no objective."
    if like is None:
        second = (
            "like for like: no candidate with the reference's parameters (within 1 %) and at least its depth"
            " is predicted faster on every GPU."
        )
    else:
        gains = [100 * (speedup - 1) for speedup in like["speedup"]]
        second = (
            f"like for like: {like['shape']} has the reference's parameters (within 1 %), at least its depth,"
            f" and is faster on every GPU, by {min(gains):.1f} to {max(gains):.1f} %."
        )
    return [first, second]


def mark(gpu: dict[str, Any]) -> str:
    """A star where not all constants were fitted to operator timings of this very GPU."""
    return "" if gpu["calibration"] == "fitted" else "*"


def _row(label: str, shape: dict[str, Any], *, milliseconds: bool = False) -> list[str]:
    cells = [label, shape["shape"], f"{shape['parameters'] / 1e6:.1f}M", f"{shape['basket_latency_ms']:.2f}"]
    if milliseconds:
        return cells + [f"{ms:.2f}ms" for ms in shape["latency_ms"]]
    return cells + [f"{speedup:.3f}x" for speedup in shape["speedup"]]
