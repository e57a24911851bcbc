"""Public measurements that several scripts read: their names with revisions, and what NeuSight ran on."""

from __future__ import annotations

from dataclasses import replace

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import Gpu

AICONFIGURATOR = "ai-dynamo/aiconfigurator 095f58a"
NEUSIGHT = "sitar-lab/NeuSight 6945927"
DEEPBENCH = "baidu-research/DeepBench"
VIDUR = "microsoft/vidur 7d47513"
NEUSIGHT_GPUS = {
    "Tesla V100-PCIE-32GB": "v100",
    "Tesla T4": "t4",
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80",
    "Tesla P100-PCIE-16GB": "p100",
}
# The V100 that NeuSight timed is the PCIe card; its datasheet's clock, fp32 rate and power (from memory).
V100_PCIE_HZ, V100_PCIE_FP32, V100_PCIE_W = 1.38e9, 14.0e12, 250.0
# Same chip, other board: these take the constants of the card that was timed.
TIMED_BOARD = {
    **dict.fromkeys(("a100-sxm-40", "a100-pcie-40", "a100-pcie-80"), "a100-sxm-80"),
    **dict.fromkeys(("h100-pcie", "h200-sxm"), "h100-sxm"),
}


def neusight_gpus() -> dict[str, Gpu]:
    """NeuSight's device names and the GPUs behind them."""
    gpus = {device: load_gpu(name) for device, name in NEUSIGHT_GPUS.items()}
    v100 = gpus["Tesla V100-PCIE-32GB"]
    rates = {**v100.dense_flops_per_s, "fp32": V100_PCIE_FP32}
    pcie = replace(v100, boost_hz=V100_PCIE_HZ, dense_flops_per_s=rates, tdp_w=V100_PCIE_W)
    return {**gpus, "Tesla V100-PCIE-32GB": pcie}


def chip(name: str) -> str:
    """The chip of a profile's name, with or without more words behind it: all A100s are one."""
    return name.split()[0].split("-")[0]
