"""Public measurements as tables of cases, one per GPU, operator and dtype for fit_constants.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

AICONFIGURATOR = "ai-dynamo/aiconfigurator 095f58a"
NEUSIGHT = "sitar-lab/NeuSight 6945927"
DEEPBENCH = "baidu-research/DeepBench"
VIDUR = "microsoft/vidur 7d47513"
# NeuSight times eager PyTorch with a host floor of 25-60 us: below this the host, not the GPU, is timed.
EAGER_S = 3e-4
# The V100 that NeuSight timed is the PCIe card, whose datasheet clock and fp32 rate are lower (from memory).
V100_PCIE = {"boost_hz": 1.38e9, "fp32_flops_per_s": 14.0e12}


@dataclass(frozen=True)
class Cases:
    """Distinct measured cases of one operator and dtype on one GPU.

    `frame` holds the arguments and `seconds` (median over repeated measurements); `group` names the
    (n, k), sequence length or width that is held out together.
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


def _median(frame: pd.DataFrame, keys: list[str], group: list[str]) -> pd.DataFrame:
    """Median over backends and repetitions; cases whose timings are not positive are left out."""
    frame = frame[frame["latency_ms"] > 0]
    table = frame.groupby(keys)["latency_ms"].median().reset_index()
    table["seconds"] = table.pop("latency_ms") * 1e-3
    table["group"] = table.groupby(group).ngroup()
    return table


def gemm_cases(data: Path) -> Iterator[Cases]:
    """bf16 (aiconfigurator), fp16 (DeepBench V100) and fp32 (NeuSight, rows well above its host floor)."""
    files = {"a100-sxm-80": "a100_sxm", "l40s": "l40s", "h100-sxm": "h100_sxm", "b200": "b200_sxm"}
    for name, stem in files.items():
        frame = pd.read_csv(data / "aiconfigurator" / f"gemm_bf16_{stem}.csv.gz")
        yield Cases(load_gpu(name), "bf16", AICONFIGURATOR, _median(frame, ["m", "n", "k"], ["n", "k"]))
    frame = pd.read_csv(data / "deepbench" / "gemm.csv")
    frame = frame[(frame["gpu"] == "V100") & (frame["dtype"] == "fp16_mixed_fp32acc")]
    yield Cases(load_gpu("v100"), "fp16", DEEPBENCH, _median(frame, ["m", "n", "k"], ["n", "k"]))
    frame = pd.read_csv(data / "neusight" / "linear_fp32.csv.gz").rename(columns={"N": "n", "K": "k"})
    frame["m"] = frame["B"] * frame["M"]
    for device, gpu in neusight_gpus().items():
        rows = frame[(frame["device"] == device) & (frame["latency_ms"] > EAGER_S * 1e3)]
        yield Cases(gpu, "fp32", NEUSIGHT, _median(rows, ["m", "n", "k"], ["n", "k"]))


def neusight_gpus() -> dict[str, Gpu]:
    """NeuSight's device names and our profiles for them."""
    names = {
        "Tesla T4": "t4",
        "NVIDIA A100-PCIE-40GB": "a100-pcie-40",
        "NVIDIA A100 80GB PCIe": "a100-pcie-80",
        "Tesla P100-PCIE-16GB": "p100",
    }
    v100 = load_gpu("v100")
    rates = {**v100.dense_flops_per_s, "fp32": V100_PCIE["fp32_flops_per_s"]}
    pcie = replace(v100, boost_hz=V100_PCIE["boost_hz"], dense_flops_per_s=rates)
    return {"Tesla V100-PCIE-32GB": pcie, **{device: load_gpu(name) for device, name in names.items()}}


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
        yield Cases(load_gpu(name), "fp16", VIDUR, _median(rows, ["m", "n", "k"], ["n", "k"]))
