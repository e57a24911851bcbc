"""A frame of rows answered as `hwsearch predict FILE.csv` answers them."""

from __future__ import annotations

import tempfile
from io import StringIO
from pathlib import Path

import pandas as pd

from hwsearch.cost.tables import predict_table
from hwsearch.gpu.catalog import load_gpu


def predict_frame(table: pd.DataFrame, gpu: str) -> pd.DataFrame:
    """`table` with the columns of a prediction, on `gpu` where it has no column of that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        table.to_csv(path, index=False)
        return pd.read_csv(StringIO(predict_table(path, load_gpu(gpu))))
