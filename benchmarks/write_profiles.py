"""Turn fits into the calibration section of every profile: own fit, sustained-rate anchor or transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from fit_attention import attention_block
from fit_results import Fit, Results, gemm_constants
from fit_stream import stream_block
from profile_blocks import by_dtype, plain

from hwsearch import files
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.gpu.calibration import (
    Calibration,
    CalibrationKind,
    Evidence,
    GemmConstants,
)
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu

TENSOR = ("bf16", "fp16", "tf32")
# Same chip, other board: these take the constants of the card that was timed.
SIBLINGS = {
    "a100-sxm-40": "a100-sxm-80",
    "a100-pcie-40": "a100-sxm-80",
    "a100-pcie-80": "a100-sxm-80",
    "h100-pcie": "h100-sxm",
    "h200-sxm": "h100-sxm",
}
FP32_SIBLINGS = {"a100-sxm-40": "a100-pcie-40", "a100-sxm-80": "a100-pcie-80"}
BEST_MATMUL = "best measured matmul, mag-/gpu_benchmark README"
END_TO_END = (
    "best share of the dense rate that public end-to-end encoder runs reach, times 0.859 / 0.665 "
    "(the A100's share in matmuls over its share end to end)"
)
# Sustained TFLOP/s of a large product over the dense rate, where no GEMM table exists, and its source.
ANCHORS = {
    "l4": (91.4 / 121, BEST_MATMUL),
    "rtx3090": (78.0 / 71, BEST_MATMUL),
    "rtx4090": (178.8 / 165.2, BEST_MATMUL),
    "t4": (0.375 * 0.859 / 0.665, END_TO_END),
    "a30": (0.58 * 0.859 / 0.665, END_TO_END),
    **dict.fromkeys(
        ("rtx2080", "rtx3080", "rtx5090"), (0.84 * 0.859 / 0.665, f"{END_TO_END}; half-rate GeForce")
    ),
}
ANCHOR_SIZE = 8192
# The highest compute_fraction that an anchor may ask for.
HIGHEST_FRACTION = 2.0


def write_calibrations(results: Results) -> None:
    """Rewrite the calibration section, and nothing else, of every shipped profile."""
    folder = files.data_folder("profiles")
    for name in gpu_names(folder):
        path = folder / f"{name}.yaml"
        facts, _, _ = files.read_text(path).partition("\ncalibration:")
        calibration = calibrate(load_gpu(name, folder), results)
        block = yaml.safe_dump(
            {"calibration": as_written(calibration)}, sort_keys=False, width=110, allow_unicode=True
        )
        files.write_whole(path, f"{facts}\n{block}")


def as_written(calibration: Calibration) -> dict[str, Any]:
    return {
        "kind": calibration.kind,
        "gemm": by_dtype(calibration.gemm),
        "attention": by_dtype(calibration.attention),
        "stream": plain(calibration.stream),
    }


def calibrate(gpu: Gpu, results: Results) -> Calibration:
    """All constants of one GPU, with the evidence for each block."""
    gemm = {d: gemm_block(gpu, d, results) for d in gpu.dense_flops_per_s}
    attention = {d: attention_block(gpu, d, results.attention) for d in gpu.dense_flops_per_s}
    stream = stream_block(gpu, results.stream)
    kinds = {c.evidence.kind for c in (gemm[gpu.default_dtype], attention[gpu.default_dtype], stream)}
    every = {c.evidence.kind for c in gemm.values()} | {c.evidence.kind for c in attention.values()}
    kind: CalibrationKind = "partly fitted"
    if kinds == {"fitted"}:
        kind = "fitted"
    elif every | {stream.evidence.kind} == {"transferred"}:
        kind = "transferred"
    return Calibration(kind, gemm, attention, stream)


def find(fits: Sequence[Fit], name: str) -> Fit | None:
    return next((f for f in fits if f.cases.gpu.name == name), None)


def mean_left_out(fits: Sequence[Fit]) -> float:
    return float(np.mean([f.left_out_error for f in fits]))


def fitted(fit: Fit, note: str = "") -> Evidence:
    return Evidence(
        "fitted",
        f"{fit.cases.source}, {fit.cases.dtype}",
        len(fit.cases.frame),
        fit.own_error,
        fit.left_out_error,
        note=note,
    )


def transferred(fits: Sequence[Fit], note: str) -> Evidence:
    """Evidence of constants that come from the GPUs of `fits`."""
    data = "; ".join(dict.fromkeys(f"{f.cases.source}, {f.cases.dtype}" for f in fits))
    rows = sum(len(f.cases.frame) for f in fits)
    names = tuple(f.cases.gpu.name for f in fits)
    return Evidence("transferred", data, rows, None, mean_left_out(fits), names, note)


def class_error(fits: Sequence[Fit], evidence: Evidence) -> Evidence:
    """A transfer from one card is as uncertain as transfers were found to be over all of them."""
    return replace(evidence, transfer_error_percent=mean_left_out(fits))


def gemm_block(gpu: Gpu, dtype: str, results: Results) -> GemmConstants:
    tensor_fp16 = gpu.compute_capability >= (7, 0)
    if dtype == "fp32" or (dtype == "fp16" and not tensor_fp16):
        return simt_block(gpu, dtype, results)
    own = find(results.gemm, gpu.name)
    if own is not None:
        return own_tensor_block(own, dtype, results)
    sibling = find(results.gemm, SIBLINGS.get(gpu.name, ""))
    if sibling is not None:
        note = "same chip, other board: memory and power limits differ"
        evidence = class_error(results.gemm, transferred([sibling], note))
        return gemm_constants(sibling.vector, evidence)
    everywhere = transferred(results.gemm, "one set of constants for all GPUs that were timed")
    if gpu.name not in ANCHORS:
        return gemm_constants(results.gemm_joint, everywhere)
    share, source = ANCHORS[gpu.name]
    note = f"compute_fraction gives a product of {ANCHOR_SIZE}^3 {share:.2f} of the dense rate: {source}"
    evidence = replace(everywhere, kind="anchored", note=note)
    return anchored(gpu, dtype, gemm_constants(results.gemm_joint, evidence), share)


def own_tensor_block(own: Fit, dtype: str, results: Results) -> GemmConstants:
    vector, notes = own.vector.copy(), []
    if "DeepBench" in own.cases.source:
        # Timed from the host: launches are in the smallest rows, so the device's floor is not.
        vector[0] = results.gemm_joint[0]
        notes.append("burst clocks; floor_us from the other GPUs, as DeepBench's rows include launches")
    if dtype == own.cases.dtype:
        return gemm_constants(vector, fitted(own, "; ".join(notes)))
    if dtype == "fp16":
        return gemm_constants(vector, fitted(own, "timed in bf16, which runs at the same rate"))
    note = "no tf32 timings: constants of this GPU's bf16, with 4-byte operands"
    return gemm_constants(vector, class_error(results.gemm, transferred([own], note)))


def anchored(gpu: Gpu, dtype: str, constants: GemmConstants, share: float) -> GemmConstants:
    """`constants` with the compute_fraction at which a large product reaches `share` of the dense rate."""
    seconds = 2 * ANCHOR_SIZE**3 / (share * gpu.dense_flops_per_s[dtype])
    low, high = 0.01, HIGHEST_FRACTION
    for _ in range(50):
        middle = (low + high) / 2
        trial = replace(constants, compute_fraction=middle)
        tried = replace(gpu, calibration=replace(gpu.calibration, gemm={dtype: trial}))
        slower = gemm_seconds(tried, dtype, ANCHOR_SIZE, ANCHOR_SIZE, ANCHOR_SIZE) > seconds
        low, high = (middle, high) if slower else (low, middle)
    return replace(constants, compute_fraction=high)


def simt_block(gpu: Gpu, dtype: str, results: Results) -> GemmConstants:
    own = find(results.gemm_fp32, gpu.name)
    notes = ["rows above 0.3 ms: floor and bandwidth are those of tensor-core products"]
    if own is not None and dtype == "fp32":
        if gpu.name == "v100":
            notes.append("timed on the PCIe card, against its 14.0 TFLOP/s")
        return gemm_constants(own.vector, fitted(own, "; ".join(notes)))
    source = own or find(results.gemm_fp32, FP32_SIBLINGS.get(gpu.name, ""))
    if source is not None:
        reason = "no fp16 timings: constants of fp32" if own else "same chip, other board"
        evidence = class_error(results.gemm_fp32, transferred([source], reason))
        return gemm_constants(source.vector, evidence)
    evidence = transferred(results.gemm_fp32, "one set of constants; sustained fp32 clocks differ widely")
    return gemm_constants(results.gemm_fp32_joint, evidence)
