"""Public timings of norms, softmax, activations and adds, one table per GPU and operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sources import NEUSIGHT, VIDUR, neusight_gpus

from hwsearch.cost.stream import StreamKernel
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

KERNELS: dict[str, StreamKernel] = {
    "add": "elementwise", "gelu": "gelu", "layernorm": "layernorm", "softmax": "softmax"
}  # fmt: skip
PASSES = {"add": 3, "gelu": 2, "layernorm": 2, "softmax": 2}
# NeuSight times eager PyTorch by events, launch included: below this mostly the host is timed.
EAGER_S = 1.2e-4


@dataclass(frozen=True)
class StreamCases:
    """Distinct cases of `operator` on one GPU: `frame` has rows, cols, seconds and group (the width).

    `eager` marks event timings that include the launch.
    """

    gpu: Gpu
    dtype: str
    operator: str
    source: str
    eager: bool
    frame: pd.DataFrame

    @property
    def seconds(self) -> NDArray[np.float64]:
        return self.frame["seconds"].to_numpy(dtype=np.float64)

    def some(self, rows: NDArray[np.bool_]) -> StreamCases:
        return replace(self, frame=self.frame[rows])

    def sample(self, count: int) -> StreamCases:
        return replace(self, frame=self.frame.sample(min(count, len(self.frame)), random_state=0))


def stream_cases(data: Path) -> list[StreamCases]:
    return [*_neusight(data), *_vidur(data)]


def _neusight(data: Path) -> Iterator[StreamCases]:
    for operator, stem in {"add": "add", "gelu": "gelu", "layernorm": "ln", "softmax": "softmax"}.items():
        frame = pd.read_csv(data / "neusight" / f"{stem}_fp32.csv.gz")
        frame = frame[frame["latency_ms"] > EAGER_S * 1e3]
        for device, gpu in neusight_gpus().items():
            rows = frame[frame["device"] == device]
            if rows.empty:
                continue
            table = _median(rows["B"], rows["H"], rows["latency_ms"])
            yield StreamCases(gpu, "fp32", operator, NEUSIGHT, True, table)


def _vidur(data: Path) -> Iterator[StreamCases]:
    """fp16 adds of all models, and phi-2's layernorm and GELU: the others have RMS norms and gated SiLU."""
    frame = pd.read_csv(data / "vidur" / "mlp_fp16.csv.gz")
    phi, others = frame[frame["model"] == "microsoft/phi-2"], frame[frame["model"] != "microsoft/phi-2"]
    tables = {
        "add": (others, others["n_embd"], "add_ms"),
        "gelu": (phi, phi["n_expanded_embd"] // phi["num_tensor_parallel_workers"], "mlp_act_ms"),
        "layernorm": (phi, phi["n_embd"], "input_layernorm_ms"),
    }
    for operator, (rows, width, column) in tables.items():
        for device, name in (("a100", "a100-sxm-80"), ("h100", "h100-sxm")):
            here = rows["gpu"] == device
            table = _median(rows["num_tokens"][here], width[here], rows[column][here])
            yield StreamCases(load_gpu(name), "fp16", operator, VIDUR, False, table)


def _median(rows: pd.Series, cols: pd.Series, latency_ms: pd.Series) -> pd.DataFrame:
    frame = pd.DataFrame({"rows": rows, "cols": cols, "ms": latency_ms})
    table = frame[frame["ms"] > 0].groupby(["rows", "cols"])["ms"].median().reset_index()
    table["seconds"] = table.pop("ms") * 1e-3
    # One width alone is held out by rows instead.
    by = ["cols"] if table["cols"].nunique() > 3 else ["rows"]
    table["group"] = table.groupby(by).ngroup()
    return table
