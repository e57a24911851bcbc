"""Whole encoders against public end-to-end tables, and the host's time per kernel fitted from them.

    python benchmarks/fit_runtimes.py --data DIR

DIR holds e2e_encoder/e2e_encoder_latency.csv (BERT and ViT by GPU, batch, length and framework, from
public repositories) and timm/vit_shapes_latency.csv (huggingface/pytorch-image-models aa4b585). Per
cell the median over revisions is taken, and cells whose revisions differ by more than 15 % are left
out, as are TensorRT on GeForce cards (may accumulate in fp16) and training rows. Operator constants
are those of the profiles; only host_s_per_kernel of eager and compile is fitted here, by the median
over launch-bound cells (batch 1, at most 128 tokens).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from hwsearch.cost.distinct import DistinctLayers
from hwsearch.cost.encoder import encoder_time
from hwsearch.cost.layer import count_kernels, layer_operators
from hwsearch.cost.runtime import RUNTIMES
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import RuntimeName, Settings
from hwsearch.shape import EncoderShape
from hwsearch.shape.architecture import BERT
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import parse_workload

RUNTIME_OF: dict[str, RuntimeName] = {
    "PyTorch-eager": "eager",
    "HF-PyTorch": "eager",
    "Baseline": "eager",
    "Cuda graphs": "graph",
    "Inductor": "compile",
    "TensorRT": "tensorrt",
    "FasterTransformer": "tensorrt",
    "AITemplate": "tensorrt",
}
PROFILE_OF = {
    "A100": "a100-sxm-40",
    "A100-40GB": "a100-sxm-40",
    "A100-SXM-40GB": "a100-sxm-40",
    "A100-SXM-80GB": "a100-sxm-80",
    "A30": "a30",
    "RTX3090": "rtx3090",
    "T4": "t4",
    "V100": "v100",
    "V100-SXM2-16GB": "v100",
    "V100-SXM2-32GB": "v100",
    "V100-SXM3-32GB": "v100",
    "RTXPRO6000-MaxQ": "rtx-pro-6000-max-q",
}
DTYPES = {"fp16": "fp16", "fp32": "fp32", "tf32": "tf32", "amp": "fp16", "amp_bf16": "bf16", "bf16": "bf16"}
MOST_DISAGREEMENT = 1.15
LAUNCH_BOUND_TOKENS = 128
KEY = ["gpu", "runtime", "dtype", "layers", "hidden", "heads", "ffn", "batch", "seq", "framework"]


def encoder_cells(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "e2e_encoder" / "e2e_encoder_latency.csv")
    rows["runtime"] = rows["framework"].map(RUNTIME_OF)
    rows = rows[(rows["mode"] == "infer") & rows["runtime"].notna()]
    rows = rows[~((rows["framework"] == "TensorRT") & rows["gpu"].str.startswith("RTX"))]
    return rows


def vit_cells(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "timm" / "vit_shapes_latency.csv")
    rows = rows[(rows["mode"] == "infer") & rows["extra"].isna() & rows["mlp_ratio"].notna()]
    rows["runtime"] = rows["compile"].map({"eager": "eager", "dynamo": "compile"})
    rows["dtype"] = rows["precision"]
    rows["ffn"] = (rows["mlp_ratio"] * rows["hidden"]).round()
    rows = rows.rename(columns={"tokens": "seq", "step_ms": "latency_ms"})
    rows["framework"] = "timm " + rows["compile"]
    return rows


def cells(folder: Path) -> pd.DataFrame:
    """One row a cell, with the profile's name in `profile`."""
    rows = pd.concat([encoder_cells(folder), vit_cells(folder)])
    rows["dtype"] = rows["dtype"].map(DTYPES)
    rows["profile"] = rows["gpu"].map(PROFILE_OF)
    rows = rows.dropna(subset=["dtype", "profile", *KEY[3:9]])
    grouped = rows.groupby([*KEY, "profile"])["latency_ms"]
    found = grouped.agg(["median", "min", "max"]).reset_index()
    return found[found["max"] <= MOST_DISAGREEMENT * found["min"]]


def predict(cell: pd.Series) -> tuple[float, float]:
    """Milliseconds of the device, and kernels launched."""
    gpu = load_gpu(cell["profile"])
    shape = EncoderShape(
        architecture=BERT,
        num_hidden_layers=int(cell["layers"]),
        hidden_size=int(cell["hidden"]),
        num_attention_heads=int(cell["heads"]),
        intermediate_size=int(cell["ffn"]),
        vocab_size=30522,
        global_attn_every_n_layers=1,
    )
    dtype = "bf16" if cell["dtype"] == "fp16" and "fp16" not in gpu.dense_flops_per_s else cell["dtype"]
    workload = parse_workload(f"fixed:{int(cell['seq'])}x{int(cell['batch'])}")
    layers = DistinctLayers(ShapeTable.of([shape]))
    time = encoder_time(layers, gpu, workload, Settings(runtime=cell["runtime"], dtype=dtype))
    kernels = 2 + shape.num_hidden_layers * count_kernels(layer_operators(BERT, RUNTIMES[cell["runtime"]].kernels(gpu, dtype)))
    return 1e3 * float(time.device[0]), float(kernels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    found = cells(parser.parse_args().data)
    device, kernels = zip(*(predict(cell) for _, cell in found.iterrows()), strict=True)
    found = found.assign(device_ms=device, kernels=kernels)
    print("host time per kernel, launch-bound cells (batch 1, at most 128 tokens)")
    for runtime in ("eager", "compile"):
        small = found[(found["runtime"] == runtime) & (found["batch"] * found["seq"] <= LAUNCH_BOUND_TOKENS)]
        if len(small):
            each = 1e3 * small["median"] / small["kernels"]
            print(
                f"  {runtime}: median {each.median():.1f} us, {each.quantile(0.1):.1f} to"
                f" {each.quantile(0.9):.1f} us over {len(small)} cells; profile says"
                f" {1e6 * RUNTIMES[runtime].host_s_per_kernel:.1f} us"
            )
        else:
            print(f"  {runtime}: no such cells; kept at {1e6 * RUNTIMES[runtime].host_s_per_kernel:.1f} us")
    host = found["kernels"] * found["runtime"].map(lambda name: 1e3 * RUNTIMES[name].host_s_per_kernel)
    error = np.maximum(found["device_ms"], host) / found["median"] - 1
    found = found.assign(error=error)
    print(f"\n{'runtime':<10}{'GPU':<20}{'dtype':<7}{'cells':>6}{'median |error| %':>18}{'bias %':>9}")
    for cell, group in found.groupby(["runtime", "profile", "dtype"]):
        _print(cell, group["error"])
    for kind, group in found.groupby("runtime"):
        _print((kind, "all", ""), group["error"])


def _print(cell: tuple[object, ...], error: pd.Series) -> None:
    runtime, gpu, dtype = cell
    absolute, bias = 100 * error.abs().median(), 100 * error.median()
    print(f"{runtime:<10}{gpu:<20}{dtype:<7}{len(error):>6}{absolute:>18.1f}{bias:>+9.1f}")


if __name__ == "__main__":
    main()
