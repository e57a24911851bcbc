"""Whole encoders against public end-to-end tables, which also give each runtime's one constant.

    python benchmarks/encoders.py --data DIR [--cells FILE.csv]

DIR holds the folders e2e_encoder (BERT and ViT by GPU, batch, length and framework, from public
repositories), timm (huggingface/pytorch-image-models aa4b585) and neusight (sitar-lab/NeuSight 6945927).
Predictions are those of `hwsearch predict FILE.csv`: a row says shape, batch, length, GPU, dtype, runtime.

A cell is one shape, batch and length in one runtime, dtype and framework on one GPU; the median over its
revisions is judged, unless they differ by more than 15 %. Left out are training rows, and TensorRT on GeForce
cards (may accumulate in fp16). Operator constants are those of the profiles; only a kernel's host time and
the gap between kernels come from here: medians over launch-bound cells in 16 bits. --cells writes every cell
with its prediction.

MLPerf (same folder, rounds 1.0 to 3.0) is a check on GPUs that no other table has: BERT-large, 99.9 %,
offline, fp16 engines that compute no padding, against the median submission. Its SQuAD lengths are
approximated by a normal distribution. H100 submissions run in fp8 and are left out.

PyTorch tables from before its fused attention (2.0; BERT in transformers: 4.48) and engines that had none for
the length are predicted a second time with unfused attention: what is left then is not attention's choice.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from predicted import predict_frame

from hwsearch.cost.layer import count_kernels, embedding_operators, layer_operators
from hwsearch.cost.models import PLAIN
from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.runtime import GAP_S_PER_KERNEL, RUNTIMES
from hwsearch.gpu.catalog import load_gpu
from hwsearch.settings import RuntimeName
from hwsearch.shape import PRESETS
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
EVEN = np.linspace(0, 1, 500)
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
MLPERF_PROFILE_OF = {
    "NVIDIA A2": "a2",
    "NVIDIA A10-24Q": "a10",
    "NVIDIA A30": "a30",
    "NVIDIA A40": "a40",
    "NVIDIA A100-PCIe-40GB": "a100-pcie-40",
    "NVIDIA A100-PCIe-80GB": "a100-pcie-80",
    "NVIDIA A100-SXM-40GB": "a100-sxm-40",
    "NVIDIA A100-SXM-80GB": "a100-sxm-80",
}
# Mean of the SQuAD lengths in MLPerf's data set, its spread and limits by eye.
SQUAD = "normal:178,75,30..384x256"
MOST_DISAGREEMENT = 1.15
LAUNCH_BOUND_TOKENS = 128
NEVER = (99, 0)
NO_GPU = "t4"  # every row names its own
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


def with_error(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(error=found["predicted_ms"] / found["measured_ms"] - 1)


def launched(cell: pd.Series) -> int:
    """Kernels of one pass."""
    kernels = RUNTIMES[cell["runtime"]].kernels(load_gpu(cell["gpu"]), cell["dtype"])
    layer = count_kernels(layer_operators(PLAIN, kernels))
    return int(cell["layers"]) * layer + count_kernels(embedding_operators())


def predict_unfused(table: pd.DataFrame) -> pd.DataFrame:
    """The same if attention were nowhere one kernel; the host takes as long as it does now."""
    each_s = table["runtime"].map({name: runtime.host_s_per_kernel for name, runtime in RUNTIMES.items()})
    host_ms = 1e3 * each_s * table.apply(launched, axis=1)
    fused = dict(RUNTIMES)
    for name, runtime in fused.items():
        RUNTIMES[name] = replace(runtime, fused_from=NEVER, host_s_per_kernel=0.0)
    try:
        found = predict_frame(table, NO_GPU)
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


def print_interval(found: pd.DataFrame) -> None:
    """Factors of measured / predicted that hold 90 %, every (runtime, GPU, dtype) alike, and what the factors
    of the other GPUs hold of each; for profiles of left_out.py."""
    ratio = found["measured_ms"] / found["predicted_ms"]

    def bounds(rows: pd.Series) -> tuple[float, float]:
        groups = [ratio[g.index].quantile(EVEN) for _, g in found[rows].groupby(["runtime", "gpu", "dtype"])]
        return tuple(pd.concat(groups).quantile([0.05, 0.95]))  # type: ignore[return-value]

    held = pd.Series(False, index=found.index)
    for gpu in found["gpu"].unique():
        low, high = bounds(found["gpu"] != gpu)
        held[found["gpu"] == gpu] = ratio[found["gpu"] == gpu].between(min(low, 1), max(high, 1))
    low, high = bounds(found["gpu"].notna())
    of_groups = held.groupby([found["runtime"], found["gpu"]]).mean().mean()
    print(f"\nmeasured / predicted, 90 %: {low:.2f} to {high:.2f}; the factors of the other GPUs hold")
    print(f"{100 * held.mean():.0f} % of the cells and, runtimes and GPUs alike, {100 * of_groups:.0f} %")


def print_mlperf(folder: Path) -> None:
    rows = pd.read_csv(folder / "e2e_encoder" / "mlperf_bert_large.csv")
    rows = rows[(rows["scenario"] == "Offline") & (rows["weight_dtype"] == "fp16")]
    rows["gpu"] = rows["accelerator"].map(MLPERF_PROFILE_OF)
    bert = PRESETS["bert-large"]
    unpadded = replace(bert, architecture=replace(bert.architecture, unpads=True))
    workload = parse_workload(SQUAD)
    print("\nMLPerf BERT-large, sequences a second")
    print(f"{'gpu':<20}{'rows':>6}{'measured':>10}{'predicted':>11}{'error of time %':>17}")
    for gpu, group in rows.groupby("gpu"):
        latency_s = predict_shape(
            unpadded, load_gpu(str(gpu)), workload, dtype="fp16", runtime="tensorrt"
        ).latency_s
        measured, predicted = group["per_accel"].median(), workload.batch_size / latency_s
        error = 100 * (measured / predicted - 1)
        print(f"{gpu:<20}{len(group):>6}{measured:>10.0f}{predicted:>11.0f}{error:>+17.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=Path)
    arguments = parser.parse_args()
    judged = cells(arguments.data)
    found = with_error(predict_frame(judged, NO_GPU))
    print_constants(found)
    print_errors(found, ["runtime", "gpu", "dtype"])
    print_errors(found, ["runtime", "framework", "gpu", "dtype"])
    print_errors(found, ["runtime"])
    unfused = predict_unfused(judged[judged["framework"].isin(UNFUSED)])
    print("\nthe same with unfused attention, for tables that had no other")
    print_errors(with_error(unfused), ["runtime", "framework", "gpu", "dtype"])
    print_interval(found)
    print_mlperf(arguments.data)
    if arguments.cells:
        found.to_csv(arguments.cells, index=False)


if __name__ == "__main__":
    main()
