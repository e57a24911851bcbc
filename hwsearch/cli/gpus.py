"""hwsearch gpus [show G | detect]"""

from __future__ import annotations

import argparse
import json
import sys

from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.facts import gpu_evidence, gpu_facts
from hwsearch.gpu.profile import Gpu
from hwsearch.report.backends import backend_lines
from hwsearch.report.columns import aligned
from hwsearch.report.evidence import evidence_lines


def main(arguments: argparse.Namespace) -> None:
    if arguments.action == "show":
        print(_describe(load_gpu(arguments.gpu)))
    elif arguments.action == "detect" and arguments.ray:
        _resources()
    elif arguments.action == "detect":
        _detect()
    else:
        print(_list())


def _list() -> str:
    header = ["name", "architecture", "cc", "SMs", "memory", "GB/s", "dtype", "TFLOP/s", "TDP", "constants"]
    rows = []
    for name in gpu_names():
        gpu = load_gpu(name)
        dtype = gpu.default_dtype
        rows.append(
            [
                gpu.name,
                gpu.architecture,
                ".".join(map(str, gpu.compute_capability)),
                str(gpu.sms),
                f"{gpu.memory_bytes / 2**30:.0f} GiB",
                f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f}",
                dtype,
                f"{gpu.dense_flops_per_s[dtype] / 1e12:.1f}",
                f"{gpu.tdp_w:.0f} W",
                gpu.calibration.kind,
            ]
        )
    return "\n".join(aligned([header, *rows]))


def _describe(gpu: Gpu) -> str:
    facts = [["fact", "value", "source"], *([fact.name, fact.value, fact.source] for fact in gpu_facts(gpu))]
    lines = [f"{gpu.name}: {gpu.product}", "", *aligned(facts, left=3), "", *backend_lines(gpu), ""]
    lines.append(f"constants: {gpu.calibration.kind}")
    for name, evidence in gpu_evidence(gpu):
        lines += [f"  {line}" for line in evidence_lines(name, evidence)]
    return "\n".join(lines)


def _resources() -> None:
    from hwsearch.gpu.visible import resources, visible

    devices = visible()
    for device in devices:
        if device.gpu is None:
            print(f"hwsearch: GPU {device.index} is left out: {device.note}", file=sys.stderr)
    print(json.dumps(resources(devices)))


def _detect() -> None:
    from hwsearch.gpu.detect import detect

    for found in detect():
        where = "CPU" if found.index < 0 else f"GPU {found.index}"
        profile = found.gpu.name if found.gpu is not None else "no profile"
        print(f"{where}: {found.nvml_name}: {profile}")
        for name, fact in found.facts.items():
            print(f"  {name}: {fact}")
        if found.note:
            print(f"  {found.note}")
