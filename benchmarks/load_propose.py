"""What the measured rung's next proposal costs as measurements come in.

    python benchmarks/load_propose.py [--measured 250 1000 2000 4000] [--candidates 50000]

benchmarks/load.py times the study alone, this the ladder on it. Candidates are made up: seven features,
two measured GPUs, two objectives; measured are random ones, 5 % off the prediction. Timed is a proposal
after one more measurement, when nothing is fitted anew. Each size is a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np

from hwsearch.regression.covariance import Floats
from hwsearch.search.measured.ladder import Ladder
from hwsearch.search.measured.residual import Measured, Rows, unit_features


def propose(measured: int, candidates: int) -> None:
    generator = np.random.default_rng(0)
    columns = generator.random((candidates, 7))
    quality = columns @ generator.random(7) + 0.1 * generator.random(candidates)
    predicted = np.exp(columns @ generator.random((7, 2))).T

    def losses(latency_s: Floats, rows: Rows) -> Floats:
        return np.stack([np.log(latency_s).mean(axis=0), -quality[rows]], axis=1)

    rows = generator.permutation(candidates)[: measured + 1]
    seconds = predicted[:, rows] * np.exp(0.05 * generator.standard_normal((2, len(rows))))
    known = Measured(rows, seconds, np.full(seconds.shape, 0.01))
    ladder = Ladder(predicted, unit_features(columns), losses)
    ladder.next_row(known.first(measured))
    start, cpu = time.perf_counter(), time.process_time()
    ladder.next_row(known)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {measured:,} | {took:.2f} | {cpu:.2f} | {peak:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measured", type=int, nargs="+", default=[250, 1000, 2000, 4000])
    parser.add_argument("--candidates", type=int, default=50_000)
    arguments = parser.parse_args()
    print("| measured | s a proposal | own CPU s | MiB of the process |\n" + "|---" * 4 + "|", flush=True)
    for measured in arguments.measured:
        each = multiprocessing.get_context("spawn").Process(
            target=propose, args=(measured, arguments.candidates)
        )
        each.start()
        each.join()


if __name__ == "__main__":
    main()
