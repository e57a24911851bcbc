"""Operator tables: a column `op`, and the sizes that each operator needs."""

from __future__ import annotations

import numpy as np

from hwsearch.cost.distinct import Seconds
from hwsearch.cost.eager import HOST_TIME, eager_seconds
from hwsearch.cost.interval import operator_interval
from hwsearch.cost.operators import OPERATORS, Variant
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.cost.table_rows import Answer, TableRows, read_window
from hwsearch.csv_table import RowNumbers
from hwsearch.gpu.attention_kernels import KERNELS as ATTENTION_KERNELS
from hwsearch.settings import RuntimeName

KERNELS = {name: name for name in ("", *ATTENTION_KERNELS)}


def price_operators(rows: TableRows) -> Answer:
    """Every row's time; raises HwsearchError with the line of what cannot be priced."""
    answer = Answer.empty(len(rows.table), models=False)
    ops = rows.table.words("op", {name: name for name in OPERATORS})
    for op in dict.fromkeys(ops):
        _price(rows, op, np.array([row for row, name in enumerate(ops) if name == op]), answer)
    return answer


def _price(rows: TableRows, op: str, chosen: RowNumbers, answer: Answer) -> None:
    table, operator = rows.table, OPERATORS[op]
    rows.require(tuple(operator.columns), int(chosen[0]), f"op {op}")
    sizes = {name: table.integers(name, 1, largest, chosen) for name, largest in operator.columns.items()}
    variants = [Variant()] * len(chosen)
    if op == "attention":
        sizes["window"] = read_window(rows, chosen)
        causal, kernel = table.flags("causal", chosen), table.words("kernel", KERNELS, chosen)
        variants = [Variant(*pair) for pair in zip(causal, kernel, strict=True)]
    for first, places in rows.groups(chosen, variants):
        gpu, dtype, variant = rows.gpus[first], rows.dtypes[first], variants[int(places[0])]
        of_group = {name: column[places] for name, column in sizes.items()}
        with rows.blame(first):
            device: Seconds = operator.seconds(gpu, dtype, of_group, variant)
            factors = operator_interval(gpu, dtype, op, variant)
        seconds = _with_launch(op, device, rows.runtimes[first])
        answer.fill(chosen[places], seconds, factors, operator.evidence(gpu, dtype, variant).kind)


def _with_launch(op: str, device: Seconds, runtime: RuntimeName) -> Seconds:
    """What a clock around one kernel shows: in eager PyTorch the host's part as well."""
    if runtime == "eager":
        return eager_seconds(device, HOST_TIME[op])
    return np.maximum(device, RUNTIMES[runtime].host_s_per_kernel)
