"""Rows of the tables from which a backend is chosen, from what benchmarks/attention.py has timed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from attention_cases import WORKLOADS, Case
from attention_report import by_case

from hwsearch.kernels.dispatch import backend_table
from hwsearch.kernels.tuned import Key, Row, length_class, window_class

# Methods that are a backend of hwsearch.kernels; without a table the first serves.
BACKENDS = ("triton", "flash_attn", "torch_flash")
METHOD = "benchmarks/attention.py: medians of ten, versions in turn, CUDA events"

Times = dict[str, dict[str, Any]]


def backend_rows(results: dict[str, Any]) -> dict[str, list[Row]]:
    """By table: a row for each class of call, of the sums over its cases of the backends that served all.

    Of a class that was timed with several counts of heads, the first counts.
    """
    table = by_case(results["rows"])
    classes: dict[tuple[Key, int], list[tuple[Case, Times, Times]]] = defaultdict(list)
    for workload, heads, size, window, direction in table:
        case = Case(workload, heads, size, window)
        hides = window_class(window, case.longest)
        # A window that hides nothing is timed again as global.
        if direction != "forward" or (window is not None and hides == "global"):
            continue
        key = Key("bf16", size, hides, length_class(case.longest))
        if not any(key == seen and heads != other for seen, other in classes):
            backward = table.get((workload, heads, size, window, "backward"), {})
            classes[key, heads].append((case, table[workload, heads, size, window, direction], backward))
    rows: dict[str, list[Row]] = {backend_table(False): [], backend_table(True): []}
    for (key, heads), cases in classes.items():
        for training in (False, True):
            timed = [[forward, backward] if training else [forward] for _, forward, backward in cases]
            row = _row(key, heads, [case for case, _, _ in cases], timed, results["machine"])
            rows[backend_table(training)] += [] if row is None else [row]
    return rows


def _row(
    key: Key, heads: int, cases: list[Case], timed: list[list[Times]], machine: dict[str, Any]
) -> Row | None:
    passes = [each for times in timed for each in times]
    seconds = {
        backend: sum(each[backend]["seconds"] for each in passes)
        for backend in BACKENDS
        if all("seconds" in each.get(backend, {}) for each in passes)
    }
    if not seconds:
        return None
    best, *rest = sorted(seconds, key=lambda backend: seconds[backend])
    driver = machine.get("driver")
    return Row(
        key,
        "measured",
        {"backend": best},
        seconds[best],
        seconds.get(BACKENDS[0]),
        tuple(({"backend": backend}, seconds[backend]) for backend in rest),
        " + ".join(WORKLOADS.get(case.workload, case.workload) for case in cases),
        heads,
        max(_spreads(each[best] for each in passes), default=None),
        None,
        machine.get("triton"),
        machine.get("torch"),
        None if driver == "unknown" else driver,
        machine["date"][:10],
        METHOD,
    )


def _spreads(rows: Iterable[dict[str, Any]]) -> list[float]:
    return [row["spread"] for row in rows if "spread" in row]
