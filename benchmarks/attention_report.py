"""What benchmarks/attention.py prints: a line a case and pass, the targets, the best tiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attention_cases import Case

Row = dict[str, Any]
# H100 SXM and H200, dense bf16, datasheet; FlashAttention-3 forward, head size 64, 16k: 497 TFLOP/s of it.
DATASHEET_TFLOPS, FA3_TFLOPS = 989.0, 497.0
PEERS = ("torch_flash", "flex", "cudnn", "flash_attn", "fa3", "fa4", "sdpa padded")
ROPE_PEERS = {"triton+rope": "torch_flash+rope", "triton packed+rope": "torch_flash+rope"}


@dataclass(frozen=True)
class Target:
    """`value` over the rows it names must reach `needed`; the worst case counts."""

    name: str
    needed: float
    direction: str
    peer: str
    holds: Callable[[Row], bool]


def _d64(row: Row) -> bool:
    return bool(row["head_size"] == 64)


def _long_global(row: Row) -> bool:
    return _d64(row) and row["window"] is None and row["workload"] in ("2048", "8192", "mix-8192")


def _local(row: Row) -> bool:
    # Sequences of 64 lie within the window.
    return _d64(row) and row["window"] is not None and row["workload"] not in ("64", "tiny")


def _tiny(row: Row) -> bool:
    return _d64(row) and row["workload"] == "tiny"


def _d128(row: Row) -> bool:
    return bool(row["head_size"] == 128)


TARGETS = (
    Target("d64 global, 2k and longer", 1.25, "forward", "torch_flash", _long_global),
    Target("d64 global, 2k and longer", 1.15, "backward", "torch_flash", _long_global),
    Target("d64 local-128", 1.5, "forward", "torch_flash", _local),
    Target("d64 local-128", 1.5, "backward", "torch_flash", _local),
    Target("d64 local-128", 2.0, "forward", "flex", _local),
    Target("d64 local-128", 2.0, "backward", "flex", _local),
    Target("d64 thousands of short sequences", 2.0, "forward", "torch_flash", _tiny),
    Target("d64 thousands of short sequences", 2.0, "backward", "torch_flash", _tiny),
    Target("d128, everywhere", 1.0, "forward", "torch_flash", _d128),
    Target("d128, everywhere", 1.0, "backward", "torch_flash", _d128),
)


def print_report(results: dict[str, Any]) -> None:
    table = by_case(results["rows"])
    if table:
        print(_cases(table, results["ceilings"]))
        print(_once_a_batch(results["rows"]))
        print(_reasons(results["rows"]))
    if results["sweep"]:
        print(_best_tiles(results["sweep"]))
    print(_targets(table))
    print(
        _ceilings(results["ceilings"]), "; ".join(f"{k} {v}" for k, v in results["machine"].items()), sep="\n"
    )
    left = [name for name, state in results["jobs"].items() if state != "done"]
    if left:
        print(
            f"not done: {len(left)}:", "; ".join(f"{name} ({results['jobs'][name]})" for name in left)[:600]
        )


def _key(row: Row) -> tuple[Any, ...]:
    return row["workload"], row["heads"], row["head_size"], row["window"], row["pass"]


def by_case(rows: Iterable[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    """Rows of forward and backward by case, then by method."""
    table: dict[tuple[Any, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row["pass"] in ("forward", "backward"):
            table[_key(row)][row["method"]] = row
    return dict(table)


def ratio(row: dict[str, Row], ours: str, peer: str) -> float | None:
    """Peer's seconds over ours: above 1 we are faster."""
    if not all("seconds" in row.get(method, {}) for method in (ours, peer)):
        return None
    return float(row[peer]["seconds"] / row[ours]["seconds"])


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _cases(table: dict[tuple[Any, ...], dict[str, Row]], ceilings: dict[str, float]) -> str:
    product = ceilings.get("matmul_flops_per_s")
    peers = [p for p in PEERS if any("seconds" in row.get(p, {}) for row in table.values())]
    lines = [
        "ratios: seconds of the peer / ours, above 1 ours is faster; TFLOP/s of visible pairs",
        "noise: second half / first half of samples; rope: torch_flash with a kernel for it / ours with it",
        f"{'case':<26}{'pass':<6}{'TFLOP/s':>8}{'of gemm':>8}{'ms':>8}{'noise':>7}{'error':>9}"
        + "".join(f"{p[:11]:>12}" for p in peers)
        + f"{'rope':>7}",
    ]
    for (workload, heads, size, window, direction), row in table.items():
        ours = row.get("triton", {})
        rate = ours.get("tflops")
        share = None if rate is None or product is None else 100 * rate * 1e12 / product
        milliseconds = None if "seconds" not in ours else 1e3 * ours["seconds"]
        noise = None if "spread" not in ours else 100 * ours["spread"]
        name = Case(workload, heads, size, window).name
        lines.append(
            f"{name:<26}{direction[:5]:<6}{_number(rate, '.0f'):>8}"
            f"{_number(share, '.0f') + '%':>8}{_number(milliseconds, '.3f'):>8}"
            f"{_number(noise, '.1f') + '%':>7}{_number(ours.get('error'), '.1e'):>9}"
            + "".join(f"{_number(ratio(row, 'triton', p)):>12}" for p in peers)
            + f"{_number(ratio(row, 'triton+rope', 'torch_flash+rope')):>7}"
        )
    return "\n".join(lines)


def _once_a_batch(rows: list[Row]) -> str:
    prepared = [row for row in rows if row["pass"] == "prepare" and "seconds" in row]
    parts = [
        f"{r['workload']} {r['method']} {r['seconds'] * 1e6:.0f}" for r in prepared if r["head_size"] == 64
    ]
    return "work list or block mask, built once a batch, microseconds: " + "; ".join(dict.fromkeys(parts))


def _reasons(rows: list[Row]) -> str:
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if "reason" in row:
            reasons[f"{row['method']}: {row['reason']}"].append(row["workload"])
    return "\n".join(f"no time for {what} [{len(where)} rows]" for what, where in reasons.items())


def _targets(table: dict[tuple[Any, ...], dict[str, Row]]) -> str:
    lines = [f"{'target':<40}{'pass':<10}{'against':<14}{'needed':>7}{'worst':>7}  reached"]
    for t in TARGETS:
        found = []
        for key, row in table.items():
            value = ratio(row, "triton", t.peer)
            first = next(iter(row.values()))
            if key[4] == t.direction and value is not None and t.holds(first):
                found.append((value, Case(*key[:4]).name))
        lines.append(_line(t.name, t.direction, t.peer, t.needed, min(found, default=None)))
    longest = [
        (row["triton"]["tflops"] / DATASHEET_TFLOPS, Case(*key[:4]).name)
        for key, row in table.items()
        if key[0] == "8192" and key[2:] == (64, None, "forward") and "tflops" in row.get("triton", {})
    ]
    needed = 0.85 * FA3_TFLOPS / DATASHEET_TFLOPS
    lines.append(
        _line(
            "d64 global 8192, share of 989 TFLOP/s",
            "forward",
            "FA3's 0.50",
            needed,
            min(longest, default=None),
        )
    )
    return "\n".join(lines)


def _line(name: str, direction: str, peer: str, needed: float, worst: tuple[float, str] | None) -> str:
    start = f"{name:<40}{direction:<10}{peer:<14}{needed:>7.2f}"
    if worst is None:
        return f"{start}{'-':>7}  unmeasured"
    return f"{start}{worst[0]:>7.2f}  {'yes' if worst[0] >= needed else 'no'} ({worst[1]})"


def _best_tiles(rows: list[Row]) -> str:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if "seconds" in row:
            groups[(*_key(row), row["kernel"], row["rope"])].append(row)
    lines = ["sweep: fastest variant; ms of the whole pass; times faster than the default variant"]
    for (workload, heads, size, window, direction, kernel, _), group in groups.items():
        best = min(group, key=lambda row: float(row["seconds"]))
        default = next((row for row in group if row["default"]), None)
        gain = None if default is None else default["seconds"] / best["seconds"]
        seconds = f"{best['seconds'] * 1e3:>8.3f}{_number(gain):>6}"
        name = Case(workload, heads, size, window).name
        lines.append(f"{name:<26}{kernel:<9}{direction[:5]:<6}{best['variant']:<28}{seconds}")
    return "\n".join(lines)


def _ceilings(ceilings: dict[str, float]) -> str:
    product, copy = ceilings.get("matmul_flops_per_s", 0) / 1e12, ceilings.get("copy_bytes_per_s", 0) / 1e12
    return f"measured here: bf16 product of 8192^3 random numbers {product:.0f} TFLOP/s; copy {copy:.2f} TB/s"
