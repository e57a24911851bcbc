"""Rows and tables for tests, as a tuner would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.tuned import Key, Row, table_path
from hwsearch.tuning.table_file import header_of, merge_rows

KEY = Key("bf16", 64, "global", 512)
CONFIGS: dict[str, dict[str, Any]] = {
    "attention_forward": {
        "rows": 64, "columns": 32, "warps": 4, "stages": 2, "split": True, "rotate": "load",
    },
    "attention_backward": {
        "one_pass": False,
        "dq_rows": 64, "dq_columns": 32, "dq_warps": 4, "dq_stages": 2, "dq_split": False,
        "dkdv_rows": 32, "dkdv_columns": 64, "dkdv_warps": 8, "dkdv_stages": 1, "dkdv_split": True,
        "rotate": "scratch",
    },
    "attention_backend": {"backend": "torch_flash"},
    "attention_backend_training": {"backend": "torch_flash"},
}  # fmt: skip
ONE_PASS = {"one_pass": True, "rows": 64, "warps": 4, "stages": 1, "rotate": "load"}


def row(kernel: str = "attention_forward", key: Key = KEY, **change: Any) -> Row:
    values: dict[str, Any] = {
        "source": "measured", "config": CONFIGS[kernel], "seconds": 1e-4, "default_seconds": 2e-4,
        "alternatives": (), "workload": "fixed:512x64", "heads": 12, "spread": 0.01, "joules": None,
        "triton": None, "torch": "2.11.0", "driver": "580.1", "date": "2026-11-21", "method": "test",
    }  # fmt: skip
    return Row(key, **values | change)


def write(folder: Path, gpu: str, *rows: Row, kernel: str = "attention_forward") -> Path:
    """A table below `folder`, which stands for profiles/tuned."""
    path = table_path(folder, gpu, kernel)
    merge_rows(path, header_of(kernel, load_gpu(gpu)), rows)
    return path
