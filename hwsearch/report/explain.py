"""What stands behind a prediction, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hwsearch.cost.bounds import Bound
from hwsearch.cost.explain import Explanation, OperatorTime
from hwsearch.cost.neighbours import Neighbour
from hwsearch.cost.prediction import Prediction
from hwsearch.gpu.calibration import GemmConstants
from hwsearch.gpu.profile import Gpu
from hwsearch.report.columns import aligned
from hwsearch.report.evidence import evidence_lines

BOUND_TEXT: dict[Bound, str] = {
    "power": "power limit",
    "memory": "memory",
    "cache": "L2 cache",
    "exponentials": "exponentials",
    "instructions": "instructions",
    "latency": "latency",
    "overhead": "overhead",
}


def explanation_text(explanation: Explanation, prediction: Prediction, gpu: Gpu) -> str:
    """Operators, products, launches, neighbours and sources, a paragraph each."""
    paragraphs = (
        _operators(explanation.operators, prediction.dtype, gpu),
        _products(explanation.operators),
        [_launches(explanation, prediction)],
        _neighbours(explanation.neighbours),
        _sources(explanation, prediction),
    )
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def _operators(operators: Sequence[OperatorTime], dtype: str, gpu: Gpu) -> list[str]:
    rate, bandwidth = gpu.dense_flops_per_s[dtype] / 1e12, gpu.bandwidth_bytes_per_s / 1e9
    header = ["operator", "bound by", "runs", "ms", "share", "TFLOP/s", "of peak", "GB/s", "of peak"]
    rows = [
        [
            name,
            _bound(o.bound, dtype, gpu),
            f"{o.runs:,}",
            f"{1e3 * o.seconds:.3f}",
            f"{100 * o.share:.1f} %",
            *([f"{o.flops_per_s / 1e12:.1f}", f"{100 * o.flops_share:.0f} %"] if o.flops_per_s else ["", ""]),
            f"{o.bytes_per_s / 1e9:,.0f}",
            f"{100 * o.bytes_share:.0f} %",
        ]
        for name, o in zip(titles(operators, with_sizes=True), operators, strict=True)
    ]
    return [
        f"The device's work; peak of {gpu.name}: {rate:,.4g} TFLOP/s in {dtype}, {bandwidth:,.0f} GB/s",
        *aligned([header, *rows]),
        f"Bound by {_by_bound(operators, dtype, gpu)}",
    ]


def _by_bound(operators: Sequence[OperatorTime], dtype: str, gpu: Gpu) -> str:
    shares: dict[str, float] = {}
    for operator in operators:
        bound = _bound(operator.bound, dtype, gpu)
        shares[bound] = shares.get(bound, 0.0) + operator.share
    longest_first = sorted(shares.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{bound} {100 * share:.1f} %" for bound, share in longest_first)


def titles(operators: Sequence[OperatorTime], with_sizes: bool = False) -> list[str]:
    """Names that tell operators apart: the part's where enough, `with_sizes` where nothing else is."""
    of_part = Counter(o.part for o in operators)
    of_kernel = Counter((o.part, o.kernel) for o in operators)
    names = []
    for o in operators:
        alone = of_part[o.part] == 1 or o.kernel in ("product", "attention")
        name = o.part if alone else f"{o.part}, {o.kernel}"
        names.append(f"{name} {_sizes(o)}" if with_sizes and of_kernel[o.part, o.kernel] > 1 else name)
    return names


def _sizes(operator: OperatorTime) -> str:
    return " x ".join(map(str, operator.sizes or ()))


def _bound(bound: Bound, dtype: str, gpu: Gpu) -> str:
    if bound != "compute":
        return BOUND_TEXT[bound]
    has_cores = isinstance(gpu.calibration.gemm[dtype], GemmConstants)
    return "tensor cores" if has_cores else f"{dtype} arithmetic"


def _products(operators: Sequence[OperatorTime]) -> list[str]:
    header = ["product", "m x n x k", "tile", "split-k", "waves", "tail use", "tile use"]
    rows = []
    for name, operator in zip(titles(operators), operators, strict=True):
        if operator.sizes is None:
            continue
        variant = operator.variant
        cells = ["", "", "", "", ""]
        if variant is not None:
            cells = [
                f"{variant.tile_m}x{variant.tile_n}",
                f"{variant.split_k}",
                f"{variant.waves:,}",
                f"{100 * variant.tail_utilisation:.0f} %",
                f"{100 * variant.tile_utilisation:.0f} %",
            ]
        rows.append([name, _sizes(operator), *cells])
    notes = (
        "tail use: share of the SMs' time that the waves fill; tile use: share of the tiles that is result"
    )
    return [*aligned([header, *rows]), notes] if rows else []


def _launches(e: Explanation, p: Prediction) -> str:
    device_ms, host_ms = 1e3 * p.device_s, 1e3 * e.host_s
    if not e.launches:
        return f"Runtime {p.runtime} launches nothing kernel by kernel: the GPU's work sets the latency."
    launches = f"{e.launches:,} launches take the host {host_ms:.3f} ms"
    if e.bound == "launches":
        idle = 100 * (1 - p.device_s / p.latency_s)
        return (
            f"The host's launches bound the whole: {launches}, the GPU's own work only {device_ms:.3f} ms"
            f" (it idles {idle:.0f} % of the time). A larger batch costs nothing until they are equal;"
            " runtimes graph and tensorrt do without launches."
        )
    return f"The GPU's work bounds the whole: {launches}, the GPU's work {device_ms:.3f} ms."


def _neighbours(neighbours: Sequence[Neighbour]) -> list[str]:
    if not neighbours:
        return ["No width or feed-forward size nearby is faster, or larger for nothing."]
    header = ["nearby size", "", "latency", "by trend", "operations", "parameters", "ms", "shape"]
    rows = [
        [
            f"{n.field} {n.value} ({_percent(n.change)})",
            n.reason,
            _percent(n.latency_change),
            _percent(n.trend_change),
            _percent(n.flops_change),
            _percent(n.parameters_change),
            f"{1e3 * n.latency_s:.3f}",
            n.shape,
        ]
        for n in neighbours
    ]
    return aligned([header, *rows])


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _sources(e: Explanation, p: Prediction) -> list[str]:
    lines = ["Where the numbers come from"]
    for source in e.sources:
        lines += [f"  {line}" for line in evidence_lines(source.block, source.evidence)]
    for name, time in p.attention.items():
        if time.tuned:
            lines.append(f"  {name}: {time} of what is predicted for a library, rotation included")
    lines.append(
        f"  whole encoders, runtime {p.runtime}: {e.end_to_end_error_percent:.1f} % off (median)"
        " on public end-to-end tables"
    )
    return lines
