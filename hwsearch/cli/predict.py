"""hwsearch predict"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.gpu.catalog import load_gpu
from hwsearch.shape import parse_shape
from hwsearch.workload import parse_workload


def main(arguments: argparse.Namespace) -> None:
    prediction = predict_shape(
        parse_shape(arguments.shape),
        load_gpu(arguments.gpu),
        parse_workload(arguments.workload),
        dtype=arguments.dtype,
        mode=arguments.mode,
        runtime=arguments.runtime,
        head=arguments.head,
        recompute=arguments.recompute,
    )
    if arguments.json:
        print(json.dumps(asdict(prediction)))
    else:
        print(_describe(prediction))


def _describe(p: Prediction) -> str:
    mode = f"{p.mode} with recomputation" if p.recompute else p.mode
    lines = [
        f"{p.shape} on {p.gpu}, {p.workload}, {p.dtype} {mode}, runtime {p.runtime}, head {p.head}",
        f"predicted latency   {1e3 * p.latency_s:12.3f} ms   (constants: {p.calibration})",
        f"real tokens/s       {p.tokens_per_s:12,.0f}",
        f"operations          {p.flops / 1e12:12.3f} TFLOP, {p.flops / p.latency_s / 1e12:,.1f} TFLOP/s",
        f"peak memory         {p.peak_bytes / 2**30:12.2f} GiB; largest batch that fits: {p.largest_batch:,}",
        "",
    ]
    for name, seconds in sorted(p.parts_s.items(), key=lambda part: -part[1]):
        lines.append(f"{name:<24}{1e3 * seconds:10.3f} ms {100 * seconds / p.device_s:6.1f} %")
    if p.latency_s > p.device_s:
        lines.append(
            f"\nThe GPU waits for the host's launches: its own work takes {1e3 * p.device_s:.3f} ms."
        )
    return "\n".join(lines)
