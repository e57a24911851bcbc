"""hwsearch compare"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hwsearch.cost.prediction import predict_shape
from hwsearch.cost.protocol import protocol_rows
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.report.comparison import comparison_table, protocol_table
from hwsearch.shape import parse_shape
from hwsearch.workload import DEFAULT_WORKLOAD, parse_workload


def main(arguments: argparse.Namespace) -> None:
    gpus = [load_gpu(name) for name in arguments.gpu]
    if arguments.protocol:
        if arguments.workload:
            raise HwsearchError("--workload: the protocol sets its own workloads")
        rows = [row for gpu in gpus for row in protocol_rows(arguments.shapes, gpu)]
        print(json.dumps([asdict(row) for row in rows]) if arguments.json else protocol_table(rows))
        return
    workload = parse_workload(arguments.workload or DEFAULT_WORKLOAD)
    shapes = [(name, parse_shape(name)) for name in arguments.shapes]
    found = [(name, predict_shape(shape, gpu, workload)) for gpu in gpus for name, shape in shapes]
    if arguments.json:
        print(json.dumps([{"name": name, **asdict(prediction)} for name, prediction in found]))
    else:
        print(comparison_table(found))
