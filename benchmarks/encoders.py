"""Whole encoders against public end-to-end tables, and each runtime's constant fitted from them.

    python benchmarks/encoders.py --data DIR [--cells FILE.csv]

DIR holds the folders e2e_encoder (BERT and ViT by GPU, batch, length and framework, from public
repositories), timm (huggingface/pytorch-image-models aa4b585) and neusight (sitar-lab/NeuSight 6945927).
Predictions are those of `hwsearch predict FILE.csv`: a row says shape, batch, length, GPU, dtype, runtime.

A cell is one shape, batch and length in one runtime, dtype and framework on one GPU; the median over its
revisions is judged, unless they differ by more than 15 %. Left out are training rows, and TensorRT on GeForce
cards (may accumulate in fp16). Operator constants are those of the profiles; only a kernel's host time and
the gap between kernels come from here: medians over launch-bound cells in 16 bits. --cells writes every cell
with its prediction.

PyTorch tables from before its fused attention (2.0; BERT in transformers: 4.48) and engines that had none for
the length are predicted a second time with unfused attention: what is left then is not attention's choice.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from hwsearch.cost.layer import count_kernels, embedding_operators, layer_operators
from hwsearch.cost.models import PLAIN
from hwsearch.cost.runtime import GAP_S_PER_KERNEL, RUNTIMES
from hwsearch.cost.tables import predict_table
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import RuntimeName

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
    "NVIDIA_A100-PCIE-40GB": "a100-pcie-40",
    "NVIDIA_A100_80GB_PCIe": "a100-pcie-80",
    "NVIDIA_A100-SXM4-40GB": "a100-sxm-40",
    "Tesla_V100-PCIE-32GB": "v100",
    "Tesla_T4": "t4",
    "Tesla_P100-PCIE-16GB": "p100",
}
DTYPES = {"fp16": "fp16", "fp32": "fp32", "tf32": "tf32", "amp": "fp16", "amp_bf16": "bf16", "bf16": "bf16"}
# LightSeq's table gives one dtype for itself and for PyTorch beside it; PyTorch's 2.7 to 3.8 TFLOP/s are what
# a T4 reaches in fp32 (other tables: 2.8 to 3.5), a third of its fp16 (8.4 to 13).
MISLABELLED = "HF-PyTorch"
UNFUSED = [
    "AITemplate PyTorch-eager",
    "FasterTransformer PyTorch-eager",
    "kernl Baseline",
    "kernl Cuda graphs",
    "kernl Inductor",
    "transformer-deploy PyTorch-eager",
    "ByteTransformer FasterTransformer",
]
# Engines that replay a CUDA graph; the others also launch kernel by kernel.
REPLAYED = ["TensorRT TensorRT", "AITemplate AITemplate", "kernl Cuda graphs"]
MOST_DISAGREEMENT = 1.15
LAUNCH_BOUND_TOKENS = 128
NEVER = (99, 0)
SHAPE = ["layers", "hidden", "heads", "ffn", "batch", "seq"]
KEY = ["gpu", "runtime", "dtype", *SHAPE, "framework"]


def encoder_rows(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "e2e_encoder" / "e2e_encoder_latency.csv")
    rows["runtime"] = rows["framework"].map(RUNTIME_OF)
    rows = rows[(rows["mode"] == "infer") & rows["runtime"].notna()]
    rows = rows[~((rows["framework"] == "TensorRT") & rows["gpu"].str.startswith("RTX"))]
    project = rows["source"].str.split().str[0].str.split("/").str[-1]
    rows.loc[rows["framework"] == MISLABELLED, "dtype"] = "fp32"
    return rows.assign(framework=project + " " + rows["framework"])


def vit_rows(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "timm" / "vit_shapes_latency.csv")
    rows = rows[(rows["mode"] == "infer") & rows["extra"].isna() & rows["mlp_ratio"].notna()]
    rows["runtime"] = rows["compile"].map({"eager": "eager", "dynamo": "compile"})
    rows["dtype"] = rows["precision"]
    rows["ffn"] = (rows["mlp_ratio"] * rows["hidden"]).round()
    rows = rows.rename(columns={"tokens": "seq", "step_ms": "latency_ms"})
    return rows.assign(framework="timm " + rows["compile"])


def neusight_rows(folder: Path) -> pd.DataFrame:
    rows = pd.read_csv(folder / "neusight" / "e2e_labels_fp32.csv")
    rows = rows[(rows["model"] == "bert_large") & (rows["mode"] == "inf")]
    rows["runtime"] = rows["option"].map({"fusion": "compile"}).fillna("eager")
    rows = rows.rename(columns={"device": "gpu", "e2e_latency": "latency_ms"})
    return rows.assign(dtype="fp32", framework="NeuSight " + rows["runtime"])


def cells(folder: Path) -> pd.DataFrame:
    """One row a cell that is judged, its measured milliseconds in `measured_ms`."""
    rows = pd.concat([encoder_rows(folder), vit_rows(folder), neusight_rows(folder)])
    rows["dtype"] = rows["dtype"].map(DTYPES)
    rows["gpu"] = rows["gpu"].map(PROFILE_OF)
    grouped = rows.dropna(subset=["dtype", "gpu", *SHAPE]).groupby(KEY)["latency_ms"]
    found = grouped.agg(["median", "min", "max"]).reset_index()
    found = found[found["max"] <= MOST_DISAGREEMENT * found["min"]].astype(dict.fromkeys(SHAPE, int))
    return found.drop(columns=["min", "max"]).rename(columns={"median": "measured_ms"})


def predict(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the columns that `hwsearch predict FILE.csv` adds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.csv"
        table.to_csv(path, index=False)
        return pd.read_csv(StringIO(predict_table(path, load_gpu("t4"))))


def with_error(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(error=found["predicted_ms"] / found["measured_ms"] - 1)


def launched(cell: pd.Series) -> int:
    """Kernels of one pass."""
    kernels = RUNTIMES[cell["runtime"]].kernels(load_gpu(cell["gpu"]), cell["dtype"])
    layer = count_kernels(layer_operators(PLAIN, kernels))
    return int(cell["layers"]) * layer + count_kernels(embedding_operators())


def predict_unfused(table: pd.DataFrame) -> pd.DataFrame:
    """The same if attention were nowhere one kernel; the host takes as long as in `predict`."""
    each_s = table["runtime"].map({name: runtime.host_s_per_kernel for name, runtime in RUNTIMES.items()})
    host_ms = 1e3 * each_s * table.apply(launched, axis=1)
    fused = dict(RUNTIMES)
    for name, runtime in fused.items():
        RUNTIMES[name] = replace(runtime, fused_from=NEVER, host_s_per_kernel=0.0)
    try:
        found = predict(table)
    finally:
        RUNTIMES.update(fused)
    return found.assign(predicted_ms=np.maximum(found["predicted_ms"], host_ms.to_numpy()))


def print_constants(found: pd.DataFrame) -> None:
    """Host time of a kernel where the host launches, gap between kernels where they are replayed; both once
    more without each GPU's cells."""
    print(f"launch-bound cells: batch 1, at most {LAUNCH_BOUND_TOKENS} tokens, fp16; microseconds a kernel")
    small = (found["batch"] == 1) & (found["seq"] <= LAUNCH_BOUND_TOKENS) & (found["dtype"] == "fp16")
    small &= found["gpu"] != "t4"  # its own work takes longer than the launches
    for name, runtime in RUNTIMES.items():
        cells = found[small & (found["runtime"] == name)]
        kernels = cells.apply(launched, axis=1)
        if runtime.host_s_per_kernel:
            each, used = 1e3 * cells["measured_ms"] / kernels, runtime.host_s_per_kernel
        else:
            cells = cells[cells["framework"].isin(REPLAYED)]
            kernels, used = kernels[cells.index], GAP_S_PER_KERNEL
            each = 1e3 * (cells["measured_ms"] - cells["predicted_ms"]) / kernels + 1e6 * used
        gpus = cells["gpu"]
        without = [f"{each[gpus != gpu].median():.1f} without {gpu}" for gpu in gpus.unique()]
        print(
            f"  {name:<9} in use {1e6 * used:.1f}; median {each.median():.1f}, {each.min():.1f} to"
            f" {each.max():.1f} over {len(each)} cells; {', '.join(without)}"
        )


def print_errors(found: pd.DataFrame, by: list[str]) -> None:
    widths = {"runtime": 10, "gpu": 20, "dtype": 7, "framework": 36}
    heading = "".join(f"{name:<{widths[name]}}" for name in by)
    print(f"\n{heading}{'cells':>6}{'median |error| %':>18}{'bias %':>9}{'within 8 %':>12}")
    for key, group in found.groupby(by):
        error = 100 * group["error"]
        name = "".join(f"{part:<{widths[column]}}" for column, part in zip(by, key, strict=True))
        within = 100 * (error.abs() <= 8).mean()
        print(f"{name}{len(error):>6}{error.abs().median():>18.1f}{error.median():>+9.1f}{within:>10.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=Path)
    arguments = parser.parse_args()
    judged = cells(arguments.data)
    found = with_error(predict(judged))
    print_constants(found)
    print_errors(found, ["runtime", "gpu", "dtype"])
    print_errors(found, ["runtime", "framework", "gpu", "dtype"])
    print_errors(found, ["runtime"])
    unfused = predict_unfused(judged[judged["framework"].isin(UNFUSED)])
    print("\nthe same with unfused attention, for tables that had no other")
    print_errors(with_error(unfused), ["runtime", "framework", "gpu", "dtype"])
    if arguments.cells:
        found.to_csv(arguments.cells, index=False)


if __name__ == "__main__":
    main()
