"""Public timings of attention kernels, and the work that each case asks of its kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sources import AICONFIGURATOR

from hwsearch.cost.attention import Work, row_work
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

KEYS = ["batch_size", "seq_len", "num_heads", "head_dim"]
# Profile, file, kernel, causal. B200's prefill rows are TensorRT-LLM's kernels, not FA4: they stay out.
# FA2's and FA3's tables are medians of flash-attention and TensorRT-LLM's own kernels of that generation.
TABLES = (
    ("l40s", "encoder_attention_bf16_l40s", "fa2", False),
    ("h100-sxm", "encoder_attention_bf16_h100_sxm", "fa3", False),
    ("b200", "encoder_attention_bf16_b200_sxm", "fa4", False),
    ("a100-sxm-80", "context_attention_mha_bf16_a100_sxm", "fa2", True),
    ("l40s", "context_attention_mha_bf16_l40s", "fa2", True),
    ("h100-sxm", "context_attention_mha_bf16_h100_sxm", "fa3", True),
    ("l40s", "encoder_attention_bf16_l40s", "triton", False),
)
# Head sizes beyond have no fused kernel in flash-attention.
WIDEST_HEAD = 256


@dataclass(frozen=True)
class AttentionCases:
    """Distinct cases of one kernel on one GPU; `frame` has KEYS, seconds and group (the length)."""

    gpu: Gpu
    kernel: str
    causal: bool
    frame: pd.DataFrame
    work: Work
    dtype: str = "bf16"

    @property
    def seconds(self) -> NDArray[np.float64]:
        return self.frame["seconds"].to_numpy(dtype=np.float64)

    @property
    def source(self) -> str:
        return f"{AICONFIGURATOR}, {'causal prefill' if self.causal else 'encoder'} attention"

    def some(self, rows: NDArray[np.bool_]) -> AttentionCases:
        picked = {name: values[rows] for name, values in vars(self.work).items()}
        return replace(self, frame=self.frame[rows], work=Work(**picked))

    def sample(self, count: int) -> AttentionCases:
        if len(self.frame) <= count:
            return self
        rows = np.zeros(len(self.frame), dtype=bool)
        rows[np.random.default_rng(0).choice(len(self.frame), count, replace=False)] = True
        return self.some(rows)


def attention_cases(data: Path) -> list[AttentionCases]:
    return [_table(data, *table) for table in TABLES]


def _table(data: Path, name: str, stem: str, kernel: str, causal: bool) -> AttentionCases:
    frame = pd.read_csv(data / "aiconfigurator" / f"{stem}.csv.gz")
    triton = frame["kernel_source"] == "triton"
    frame = frame[(triton if kernel == "triton" else ~triton) & (frame["head_dim"] <= WIDEST_HEAD)]
    table = frame[frame["latency_ms"] > 0].groupby(KEYS)["latency_ms"].median().reset_index()
    table["seconds"] = table.pop("latency_ms") * 1e-3
    table["group"] = table.groupby("seq_len").ngroup()
    gpu = load_gpu(name)
    batch, length, heads, size = (table[key].to_numpy(dtype=np.int64) for key in KEYS)
    no_window = np.full(len(table), -1, dtype=np.int64)
    work = row_work(gpu, "bf16", kernel, batch, length, heads, size, no_window, causal)
    return AttentionCases(gpu, kernel, causal, table, work)
