"""One measurement beside its prediction, as text."""

from __future__ import annotations

from hwsearch.cost.memory import CONTEXT_BYTES
from hwsearch.cost.prediction import Prediction
from hwsearch.gpu.profile import Gpu
from hwsearch.measure.largest_batch import LargestBatch
from hwsearch.measure.row import Row
from hwsearch.report.columns import aligned

GIB = 2**30


def measured_text(
    row: Row,
    gpu: Gpu | None,
    prediction: Prediction | None,
    why_none: str,
    *,
    precision: float,
    energy: bool,
) -> str:
    """
    Args:
        row: one with times.
        gpu: the device's profile.
        prediction: the cost model's answer to the same question; `why_none` says why there is none.
        precision: what was asked for.
        energy: whether that was asked for.
    """
    return "\n".join(
        [
            *_asked(row),
            "",
            *_figures(row, gpu, prediction, energy),
            "",
            *_samples(row, precision),
            *_attention(row),
            *_conditions(row),
            *_about_the_prediction(row, prediction, why_none),
        ]
    )


def _asked(row: Row) -> list[str]:
    where = f"{row['device']} ({row['gpu'] or 'no profile fits'})"
    threads = f", torch threads: {row['threads']}" if row["threads"] else ""
    how = f"{row['dtype']} {row['mode']}, runtime {row['runtime']}, head {row['head']}"
    return [f"{row['shape']} on {where}{threads}", f"{row['workload']}: {row['tokens']:,} tokens; {how}"]


def _figures(row: Row, gpu: Gpu | None, p: Prediction | None, energy: bool) -> list[str]:
    seconds, tokens, flops = row["p50_s"], row["tokens"], row["flops"]
    dense = gpu.dense_flops_per_s.get(row["dtype"]) if gpu is not None else None
    rows = [["", "measured", "predicted", "measured / predicted"]]

    def add(name: str, measured: float | None, predicted: float | None, form: str, unit: str) -> None:
        cells = ["-" if each is None else f"{each:{form}} {unit}".rstrip() for each in (measured, predicted)]
        ratio = f"{measured / predicted:.3f}" if measured and predicted else ""
        rows.append([name, *cells, ratio])

    def rate(amount: float, over: float | None = 1.0) -> tuple[float | None, float | None]:
        if not over:
            return None, None
        return amount / seconds / over, None if p is None else amount / p.latency_s / over

    add("latency", 1e3 * seconds, None if p is None else 1e3 * p.latency_s, ",.3f", "ms")
    add("real tokens/s", *rate(tokens), ",.0f", "")
    add("TFLOP/s", *rate(flops, 1e12), ",.3f", "")
    add("of the dense rate", *rate(100 * flops, dense), ".1f", "%")
    peak = None if row["peak_bytes"] is None else row["peak_bytes"] / GIB
    # CUDA's context, which predictions count, is none of torch's allocations, and a CPU has none.
    add("peak of tensors", peak, None if p is None else (p.peak_bytes - CONTEXT_BYTES) / GIB, ",.3f", "GiB")
    if energy:
        joules = row["joules"]
        add("energy", joules, None, ",.4g", "J")
        add("energy a token", None if joules is None else 1e3 * joules / tokens, None, ",.4g", "mJ")
    return aligned(rows, left=1)


def _samples(row: Row, precision: float) -> list[str]:
    low, high, error = 1e3 * row["p20_s"], 1e3 * row["p80_s"], 100 * row["error"]
    short = "" if row["error"] <= precision else f", {100 * precision:g} % were asked for"
    lines = [
        f"samples     {row['n']}: 20 % below {low:,.3f} ms, 20 % above {high:,.3f} ms;"
        f" second half against first {100 * row['spread']:.1f} %",
        f"precision   the mean is known to {error:.2g} % with 95 % confidence{short}",
    ]
    if row["host_s"] is not None:
        lines.append(f"host        {1e3 * row['host_s']:,.3f} ms of one call are spent on launching it")
    return lines


def _attention(row: Row) -> list[str]:
    kinds = {kind: backend for kind, backend in row["backend"].items() if backend is not None}
    forced = ", forced" if row["forced"] else ""
    lines = [f"attention   {', '.join(f'{backend} ({kind})' for kind, backend in kinds.items())}{forced}"]
    for kind, entries in (row["tuned"] or {}).items():
        for kernel, entry in (entries or {}).items():
            of = f" of {entry['gpu']}" if entry["gpu"] else ""
            lines.append(f"            {kind} {kernel}: tuned table: {entry['state']}{of}")
    return lines


def _conditions(row: Row) -> list[str]:
    told = {
        "sm_mhz": "SM {} MHz",
        "memory_mhz": "memory {} MHz",
        "celsius": "{} C",
        "watts": "{:.0f} W",
        "limit_watts": "limit {:.0f} W",
        "capped": "held back by it {:.0%} of the time",
    }
    known = [form.format(row[name]) for name, form in told.items() if row[name] is not None]
    lines = [f"conditions  {', '.join([*known, *([row['watch']] if row['watch'] else [])])}"]
    if row["taint"]:
        tries = f"{row['tries']} tries, the last is shown" if row["tries"] > 1 else "1 try"
        lines.append(f"TAINTED     {row['taint']} ({tries})")
    return [*lines, *([f"note        {row['note']}"] if row["note"] else [])]


def _about_the_prediction(row: Row, p: Prediction | None, why_none: str) -> list[str]:
    if p is None:
        return [f"prediction  none: {why_none}"]
    inside = "inside" if p.latency_low_s <= row["p50_s"] <= p.latency_high_s else "OUTSIDE"
    return [
        f"prediction  constants {p.calibration}; 90 % interval {1e3 * p.latency_low_s:,.3f} to"
        f" {1e3 * p.latency_high_s:,.3f} ms: the measurement is {inside}"
    ]


def largest_batch_text(found: LargestBatch, memory_bytes: int | None, predicted: int | None) -> str:
    """
    Args:
        memory_bytes: the limit, None for the whole device.
        predicted: sequences that the cost model expects in the same memory.
    """
    limit = "" if memory_bytes is None else f" in {memory_bytes / GIB:.2f} GiB"
    peak = "" if found.peak_bytes is None else f", peak {found.peak_bytes / GIB:.3f} GiB"
    expected = "" if predicted is None else f"; predicted {predicted:,}"
    lines = [
        f"largest batch{limit}: {found.sequences:,} sequences, {found.tokens:,} tokens{peak}{expected}"
        f" ({found.tried} batches tried)"
    ]
    if found.next_failure is not None:
        lines.append(f"  {found.next_sequences:,} sequences: {found.next_failure}")
    return "\n".join(lines)
