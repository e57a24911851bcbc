"""hwsearch predict"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path

from hwsearch.cost.explain import explain
from hwsearch.cost.prediction import Prediction, predict_shape
from hwsearch.cost.tables import predict_table
from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.gpu.catalog import load_gpu
from hwsearch.report.explain import explanation_text
from hwsearch.shape import parse_shape
from hwsearch.workload import DEFAULT_WORKLOAD, parse_workload


def main(arguments: argparse.Namespace) -> None:
    if Path(arguments.shape).suffix.lower() == ".csv":
        _answer_table(arguments)
    else:
        _predict_shape(arguments)


def _answer_table(arguments: argparse.Namespace) -> None:
    for option, replaced in (("workload", "batch and seq"), ("head", "vocab"), ("json", "a CSV answer")):
        if getattr(arguments, option):
            raise HwsearchError(f"--{option} is not for a table, which has {replaced} instead")
    if arguments.attention:
        raise HwsearchError("--attention is for a shape; a table's rows are priced as libraries run them")
    if arguments.explain:
        raise HwsearchError("--explain is for a shape; a table's rows are only priced")
    if arguments.recompute:
        raise HwsearchError("--recompute is for a shape; tables are predicted without recomputation")
    answer = predict_table(
        Path(arguments.shape),
        load_gpu(arguments.gpu),
        dtype=arguments.dtype,
        runtime=arguments.runtime,
        mode=arguments.mode,
    )
    if arguments.out:
        write_whole(Path(arguments.out), answer)
    else:
        if isinstance(sys.stdout, TextIOWrapper):  # the user's own cells, byte for byte
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        print(answer, end="")


def _predict_shape(arguments: argparse.Namespace) -> None:
    if arguments.out:
        raise HwsearchError("--out is for the answer to a table FILE.csv; a shape's prediction is printed")
    shape, gpu = parse_shape(arguments.shape), load_gpu(arguments.gpu)
    workload = parse_workload(arguments.workload or DEFAULT_WORKLOAD)
    prediction = predict_shape(
        shape,
        gpu,
        workload,
        dtype=arguments.dtype,
        mode=arguments.mode,
        runtime=arguments.runtime,
        head=arguments.head,
        recompute=arguments.recompute,
        attention_times=arguments.attention or "tuned",
    )
    explanation = explain(prediction, shape, gpu, workload) if arguments.explain else None
    if arguments.json:
        explained = {"explain": asdict(explanation)} if explanation else {}
        print(json.dumps(asdict(prediction) | explained))
    elif explanation:
        print(f"{_describe(prediction)}\n\n{explanation_text(explanation, prediction, gpu)}")
    else:
        print(f"{_describe(prediction)}\n\n{_describe_parts(prediction)}")


def _describe(p: Prediction) -> str:
    mode = f"{p.mode} with recomputation" if p.recompute else p.mode
    return "\n".join(
        [
            f"{p.shape} on {p.gpu}, {p.workload}, {p.dtype} {mode}, runtime {p.runtime}, head {p.head}",
            f"predicted latency   {1e3 * p.latency_s:12.3f} ms   (constants: {p.calibration})",
            f"90 % interval       {1e3 * p.latency_low_s:12.3f} to {1e3 * p.latency_high_s:.3f} ms",
            *_attention_lines(p),
            f"real tokens/s       {p.tokens_per_s:12,.0f}",
            f"operations          {p.flops / 1e12:12.3f} TFLOP, {p.flops / p.latency_s / 1e12:,.1f} TFLOP/s",
            f"peak memory         {p.peak_bytes / 2**30:12.2f} GiB;"
            f" largest batch that fits: {p.largest_batch:,}",
        ]
    )


def _attention_lines(p: Prediction) -> list[str]:
    """Whose times were used; one line where that is the same for all layers."""
    texts = {name: str(time) for name, time in p.attention.items()}
    if len(set(texts.values())) == 1:
        texts = {"attention": next(iter(texts.values()))}
    return [f"{name:<20}{text}" for name, text in texts.items()]


def _describe_parts(p: Prediction) -> str:
    lines = []
    for name, seconds in sorted(p.parts_s.items(), key=lambda part: -part[1]):
        lines.append(f"{name:<24}{1e3 * seconds:10.3f} ms {100 * seconds / p.device_s:6.1f} %")
    if p.latency_s > p.device_s:
        lines.append(
            f"\nThe GPU waits for the host's launches: its own work takes {1e3 * p.device_s:.3f} ms."
        )
    return "\n".join(lines)
