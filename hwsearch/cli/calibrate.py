"""hwsearch calibrate"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hwsearch.cost.calibrate import Calibrated, calibrate
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import profile_path
from hwsearch.gpu.profile import CPU
from hwsearch.gpu.profile_file import read_profile
from hwsearch.gpu.profile_text import write_calibration

DEFAULT_FOLDER = "calibrated"


def main(arguments: argparse.Namespace) -> None:
    if arguments.gpu == CPU:
        raise HwsearchError("cpu has no profile to calibrate: it is measured whenever it is asked for")
    source = profile_path(arguments.gpu)
    found = calibrate(
        Path(arguments.measurements),
        read_profile(source),
        dtype=arguments.dtype,
        runtime=arguments.runtime,
        mode=arguments.mode,
    )
    folder = Path(arguments.out or os.environ.get("HWSEARCH_PROFILES") or DEFAULT_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{arguments.gpu}.yaml"
    write_calibration(source, target, found.gpu.calibration)
    print(_describe(found))
    print(f"wrote {target}")
    if os.environ.get("HWSEARCH_PROFILES") != str(folder):
        print(f"use it with HWSEARCH_PROFILES={folder}")


def _describe(found: Calibrated) -> str:
    lines = [
        f"{found.gpu.name}: {found.rows:,} measured row{'s' if found.rows > 1 else ''}",
        f"{'':<34}{'median |error|':>15}{'bias':>9}",
        _errors("before", found.before.absolute, found.before.bias),
    ]
    if found.after is None:
        lines.append("after, on shapes held out: all rows have one shape, so none can be held out")
    else:
        lines.append(_errors("after, on shapes held out", found.after.absolute, found.after.bias))
    lines.append(_errors("after, on the fitted rows", found.fitted.absolute, found.fitted.bias))
    for name, factor in found.factors.items():
        lines.append(f"{name:<34}x {factor:.3f}")
    return "\n".join(lines)


def _errors(name: str, absolute: float, bias: float) -> str:
    return f"{name:<34}{absolute:>13.1f} %{bias:>+7.1f} %"
