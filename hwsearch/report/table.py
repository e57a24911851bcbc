"""A run's answer as a short text table."""

from __future__ import annotations

from typing import Any

from hwsearch.report.columns import aligned
from hwsearch.report.summary import Summary


def answer_table(summary: Summary) -> str:
    """The reference, the winners and the like-for-like shape, each with its speedup on every GPU."""
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
    if summary["like_for_like"] is not None:
        rows.append(_row("like for like", summary["like_for_like"]))
    lines += aligned([header, *rows])
    lines.append("")
    if summary["like_for_like"] is None:
        lines.append(
            "No shape with the reference's parameters (within 1 %) and at least its depth is predicted faster"
            " on every GPU."
        )
    else:
        lines.append(
            "like for like: parameters within 1 % of the reference's, at least as many layers,"
            " faster on every GPU."
        )
    if any(mark(gpu) for gpu in gpus):
        lines.append("* constants not all fitted on this GPU; `hwsearch gpus show` tells their source.")
    return "\n".join(lines)


def mark(gpu: dict[str, Any]) -> str:
    """A star where not all constants were fitted to operator timings of this very GPU."""
    return "" if gpu["calibration"] == "fitted" else "*"


def _row(label: str, shape: dict[str, Any], *, milliseconds: bool = False) -> list[str]:
    cells = [label, shape["shape"], f"{shape['parameters'] / 1e6:.1f}M", f"{shape['basket_latency_ms']:.2f}"]
    if milliseconds:
        return cells + [f"{ms:.2f}ms" for ms in shape["latency_ms"]]
    return cells + [f"{speedup:.3f}x" for speedup in shape["speedup"]]
