"""Whole-process time of the commands that must answer at once, against `python -c "import yaml"`.

The commands run in turn (A B C A B C ...), medians are compared.

    python benchmarks/startup.py [--runs 21]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEER = "import yaml"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=21)
    runs = parser.parse_args().runs
    hwsearch = str(Path(sys.executable).parent / "hwsearch")
    commands = {
        f'python -c "{PEER}"': [sys.executable, "-c", PEER],
        "hwsearch --help": [hwsearch, "--help"],
        "hwsearch gpus": [hwsearch, "gpus"],
        "hwsearch predict": [hwsearch, "predict", "modernbert-large", "--gpu", "l4"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):  # the first round warms the file cache and is dropped
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    peer = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:<26}{1e3 * median:8.1f} ms   {median / peer:5.2f} x")


if __name__ == "__main__":
    main()
