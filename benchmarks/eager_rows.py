"""Every row of NeuSight's eager fp32 tables, host included, as `predict FILE.csv --runtime eager` prices it.

    python benchmarks/eager_rows.py --data DIR [--fit]

Median |error| (bias) in percent by operator and GPU. --fit searches the host's two times of each operator
(hwsearch.cost.eager) on a grid of 3 us for the least mean over GPUs, in sample; left out: found on the other
GPUs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from judging import median_bias, median_error
from numpy.typing import NDArray
from sources import neusight_gpus

from hwsearch.cost.eager import HOST_TIME, HostTime, eager_seconds
from hwsearch.cost.operators import OPERATORS, Variant
from hwsearch.gpu.profile import Gpu

Vector = NDArray[np.float64]
FILES = {
    "gemm": "linear",
    "bmm": "bmm",
    "layernorm": "ln",
    "softmax": "softmax",
    "gelu": "gelu",
    "add": "add",
}
FEWEST_ROWS = 5


@dataclass(frozen=True)
class Rows:
    """Seconds of one operator on one GPU: of the device as priced, and as measured around the call."""

    gpu: str
    device: Vector
    measured: Vector

    def ratio(self, host: HostTime) -> Vector:
        return np.asarray(eager_seconds(self.device, host) / self.measured)


def sizes(op: str, frame: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """NeuSight's N is the reduction, its K the output width."""
    columns = {
        "gemm": {"m": frame["B"] * frame.get("M", 1), "n": frame.get("K"), "k": frame.get("N")},
        "bmm": {"b": frame["B"], "m": frame.get("M"), "n": frame.get("K"), "k": frame.get("N")},
    }.get(op, {"rows": frame["B"], "cols": frame.get("H")})
    return {name: np.asarray(column, dtype=np.int64) for name, column in columns.items()}


def load(data: Path, op: str) -> list[Rows]:
    frame = pd.read_csv(data / "neusight" / f"{FILES[op]}_fp32.csv.gz")
    gpus: dict[str, Gpu] = neusight_gpus()
    found = []
    for device, gpu in gpus.items():
        rows = frame[frame["device"] == device]
        if len(rows) >= FEWEST_ROWS:
            seconds = OPERATORS[op].seconds(gpu, "fp32", sizes(op, rows), Variant())
            found.append(Rows(gpu.name, seconds, 1e-3 * rows["latency_ms"].to_numpy()))
    return found


def best(tables: list[Rows]) -> HostTime:
    grid = [HostTime(1e-6 * floor, 1e-6 * gap) for floor in range(2, 90, 3) for gap in range(0, 70, 3)]
    return min(grid, key=lambda host: np.mean([median_error(t.ratio(host)) for t in tables]))


def cells(tables: list[Rows], host: HostTime) -> str:
    ratios = {t.gpu: t.ratio(host) for t in tables}
    each = [f"{gpu} {median_error(r):.1f} ({median_bias(r):+.0f})" for gpu, r in ratios.items()]
    return f"mean {np.mean([median_error(r) for r in ratios.values()]):5.1f}: {', '.join(each)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of public measurements")
    parser.add_argument("--fit", action="store_true", help="search the host's times, and leave one GPU out")
    arguments = parser.parse_args()
    for op in FILES:
        tables = load(arguments.data, op)
        print(f"{op:<10} in use   {cells(tables, HOST_TIME[op])}")
        if arguments.fit:
            host = best(tables)
            unseen = [median_error(t.ratio(best([o for o in tables if o is not t]))) for t in tables]
            print(
                f"{'':<10} best: floor {1e6 * host.floor_s:.0f} us, gap {1e6 * host.gap_s:.0f} us", end="; "
            )
            print(f"mean left out {np.mean(unseen):.1f}")


if __name__ == "__main__":
    main()
