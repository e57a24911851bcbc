"""Public timings of matrix products on tensor cores, one table per GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sources import AICONFIGURATOR, DEEPBENCH, VIDUR

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu


@dataclass(frozen=True)
class Cases:
    """Distinct measured products of one dtype on one GPU.

    `frame` holds m, n, k and `seconds` (median over repeated measurements); `group` numbers the (n, k) that
    are held out together.
    """

    gpu: Gpu
    dtype: str
    source: str
    frame: pd.DataFrame

    @property
    def seconds(self) -> NDArray[np.float64]:
        return self.frame["seconds"].to_numpy(dtype=np.float64)

    def some(self, rows: pd.Series | NDArray[np.bool_]) -> Cases:
        return replace(self, frame=self.frame[rows])

    def sample(self, count: int) -> Cases:
        return replace(self, frame=self.frame.sample(min(count, len(self.frame)), random_state=0))


def _median(frame: pd.DataFrame) -> pd.DataFrame:
    """Median over backends and repetitions; cases whose timings are not positive are left out."""
    frame = frame[frame["latency_ms"] > 0]
    table = frame.groupby(["m", "n", "k"])["latency_ms"].median().reset_index()
    table["seconds"] = table.pop("latency_ms") * 1e-3
    table["group"] = table.groupby(["n", "k"]).ngroup()
    return table


def gemm_cases(data: Path) -> Iterator[Cases]:
    """bf16 (aiconfigurator) and fp16 (DeepBench V100)."""
    files = {"a100-sxm-80": "a100_sxm", "l40s": "l40s", "h100-sxm": "h100_sxm", "b200": "b200_sxm"}
    for name, stem in files.items():
        frame = pd.read_csv(data / "aiconfigurator" / f"gemm_bf16_{stem}.csv.gz")
        yield Cases(load_gpu(name), "bf16", AICONFIGURATOR, _median(frame))
    frame = pd.read_csv(data / "deepbench" / "gemm.csv")
    frame = frame[(frame["gpu"] == "V100") & (frame["dtype"] == "fp16_mixed_fp32acc")]
    yield Cases(load_gpu("v100"), "fp16", DEEPBENCH, _median(frame))


def vidur_gemm_cases(data: Path) -> Iterator[Cases]:
    """fp16 projections of transformer layers: a check of the bf16 constants, never fitted."""
    frame = pd.read_csv(data / "vidur" / "mlp_fp16.csv.gz")
    workers, hidden = frame["num_tensor_parallel_workers"], frame["n_embd"]
    ffn = frame["n_expanded_embd"]
    qkv = (frame["n_head"] + 2 * frame["n_kv_head"]) * (hidden // frame["n_head"])
    shapes = {
        "attn_pre_proj_ms": (qkv // workers, hidden),
        "attn_post_proj_ms": (hidden, hidden // workers),
        "mlp_up_proj_ms": (np.where(frame["use_gated_mlp"], 2, 1) * ffn // workers, hidden),
        "mlp_down_proj_ms": (hidden, ffn // workers),
    }
    parts = [
        pd.DataFrame(
            {"gpu": frame["gpu"], "m": frame["num_tokens"], "n": n, "k": k, "latency_ms": frame[column]}
        )
        for column, (n, k) in shapes.items()
    ]
    table = pd.concat(parts)
    for name, device in (("a100-sxm-80", "a100"), ("h100-sxm", "h100")):
        rows = table[table["gpu"] == device]
        yield Cases(load_gpu(name), "fp16", VIDUR, _median(rows))
