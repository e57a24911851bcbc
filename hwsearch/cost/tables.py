"""A CSV table of operators or models, priced row by row and answered in the same order."""

from __future__ import annotations

from pathlib import Path

from hwsearch.cost.model_table import MODEL_COLUMNS, price_models
from hwsearch.cost.operator_table import price_operators
from hwsearch.cost.operators import OPERATORS
from hwsearch.cost.table_rows import Answer, settle_rows
from hwsearch.csv_table import CsvTable, read_csv
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Mode, RuntimeName

ANSWER_COLUMNS = ("predicted_ms", "predicted_ms_low", "predicted_ms_high", "calibration", "predicted_bytes")


def predict_table(
    path: Path,
    gpu: Gpu,
    *,
    dtype: str | None = None,
    runtime: RuntimeName = "graph",
    mode: Mode = "inference",
) -> str:
    """The text of the table in `path` with the columns of ANSWER_COLUMNS added, the last for models only.

    `gpu`, `dtype` and `runtime` hold where the table's columns of these names do not say otherwise.
    Raises HwsearchError with file, line and column for anything that cannot be priced.
    """
    table = read_csv(path)
    operators = _holds_operators(table)
    if operators and mode == "training":
        raise HwsearchError(f"{path}: operators are priced forward; training is for model tables")
    rows = settle_rows(table, gpu, dtype, runtime)
    answer = price_operators(rows) if operators else price_models(rows, mode)
    return table.with_columns(_columns(answer))


def _holds_operators(table: CsvTable) -> bool:
    """Whether this is an operator table; HwsearchError if it is neither that nor a model table, or both."""
    where, found = f"{table.path}:{table.header_line}", ", ".join(table.header)
    if taken := [name for name in ANSWER_COLUMNS if name in table.header]:
        raise HwsearchError(f"{where}: the column {taken[0]} is already there; it is what a prediction adds")
    if "op" in table.header and "layers" in table.header:
        raise HwsearchError(f"{where}: both op and layers; accepted: a table of operators or one of models")
    if "op" not in table.header and "layers" not in table.header:
        raise HwsearchError(
            f"{where}: neither an operator table (column op: {', '.join(OPERATORS)}) nor a model table"
            f" (columns {', '.join(MODEL_COLUMNS)}), separated by commas; found: {found}"
        )
    return "op" in table.header


def _columns(answer: Answer) -> dict[str, list[str]]:
    """Cells of the answer: milliseconds with six digits, whole bytes."""
    times = (answer.seconds, answer.low, answer.high)
    cells = [[f"{ms:.6g}" for ms in (1e3 * seconds).tolist()] for seconds in times]
    cells.append(answer.calibration)
    if answer.peak_bytes is not None:
        cells.append([f"{count:.0f}" for count in answer.peak_bytes.tolist()])
    return dict(zip(ANSWER_COLUMNS, cells, strict=False))
