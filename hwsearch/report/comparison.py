"""Encoders side by side, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwsearch.cost.prediction import Prediction
from hwsearch.cost.protocol import Half, ProtocolRow
from hwsearch.report.columns import aligned


def comparison_table(found: Sequence[tuple[str, Prediction]]) -> str:
    """Named predictions of one workload; `x` is the speed over that of the first encoder on the same GPU."""
    first = found[0][1]
    header = ["encoder", "GPU", "dtype", "ms", "tokens/s", "x", "peak GiB", "largest batch"]
    rows = []
    reference_s: dict[str, float] = {}
    for name, p in found:
        reference = reference_s.setdefault(p.gpu, p.latency_s)
        rows.append(
            [
                name,
                p.gpu + _mark(p.calibration),
                p.dtype,
                f"{1e3 * p.latency_s:.2f}",
                f"{p.tokens_per_s:,.0f}",
                f"{reference / p.latency_s:.2f}",
                f"{p.peak_bytes / 2**30:.2f}",
                f"{p.largest_batch:,}",
            ]
        )
    title = (
        f"{first.workload}, {first.mode}, runtime {first.runtime}, head {first.head}; tokens/s are real ones"
    )
    return "\n".join([title, "", *aligned([header, *rows], left=3), *_notes(p.calibration for _, p in found)])


def protocol_table(rows: Sequence[ProtocolRow]) -> str:
    """The layout of the paper's table: largest batch, fixed and variable lengths, short and long."""
    header = [
        *("encoder", "GPU", "GEMMs", "attention"),
        *("batch 512", "fixed", "variable", "batch 8192", "fixed", "variable"),
    ]
    cells = [
        [r.encoder, r.gpu + _mark(r.calibration), r.dtype, r.attention, *_half(r.short), *_half(r.long)]
        for r in rows
    ]
    title = (
        "ModernBERT paper's protocol: float32 without TF32, backbone alone, PyTorch eager;"
        " thousands of real tokens per second, and the largest batch that fits"
    )
    return "\n".join([title, "", *aligned([header, *cells], left=4), *_notes(r.calibration for r in rows)])


def _half(half: Half | None) -> list[str]:
    if half is None:
        return ["-", "-", "-"]
    speeds = (half.fixed_tokens_per_s, half.variable_tokens_per_s)
    return [f"{half.largest_batch:,}", *(f"{speed / 1e3:.1f}" for speed in speeds)]


def _mark(calibration: str) -> str:
    return "" if calibration == "fitted" else "*"


def _notes(calibrations: Iterable[str]) -> list[str]:
    if all(kind == "fitted" for kind in calibrations):
        return []
    return ["", "* constants not all fitted on this GPU; `hwsearch gpus show` tells their source."]
