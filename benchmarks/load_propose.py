"""What the measured rung's next proposal costs as measurements come in.

    python benchmarks/load_propose.py [--measured 250 1000 2000 5000 20000] [--candidates 50000] [--each]

benchmarks/load.py times the study alone, this the ladder on it. Candidates are made up: seven features,
two measured GPUs, two objectives, with --each three, every GPU's latency being one of its own; measured are
random ones, 5 % off the prediction. Timed is a proposal after one more measurement, when nothing is fitted
anew, and the first one, with the fit and the choice of candidates to follow, which comes again whenever there
are a quarter more measurements. Each size is a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np

from hwsearch.regression.covariance import Floats
from hwsearch.search.measured.ladder import Ladder
from hwsearch.search.measured.residual import Measured, Rows, unit_features


def propose(measured: int, candidates: int, each: bool) -> None:
    generator = np.random.default_rng(0)
    columns = generator.random((candidates, 7))
    quality = columns @ generator.random(7) + 0.1 * generator.random(candidates)
    predicted = np.exp(columns @ generator.random((7, 2))).T

    def losses(latency_s: Floats, rows: Rows) -> Floats:
        logs = np.log(latency_s)
        return np.stack([*(logs if each else [logs.mean(axis=0)]), -quality[rows]], axis=1)

    rows = generator.permutation(candidates)[: measured + 1]
    seconds = predicted[:, rows] * np.exp(0.05 * generator.standard_normal((2, len(rows))))
    known = Measured(rows, seconds, np.full(seconds.shape, 0.01))
    ladder = Ladder(predicted, unit_features(columns), losses)
    first_s = timed(lambda: ladder.next_row(known.first(measured)))
    next_s = timed(lambda: ladder.next_row(known))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {measured:,} | {next_s} | {first_s} | {peak:.0f} |", flush=True)


def timed(step: Callable[[], object]) -> str:
    """Its own CPU seconds, and by the clock."""
    start, cpu = time.perf_counter(), time.process_time()
    step()
    return f"{time.process_time() - cpu:.2f} ({time.perf_counter() - start:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measured", type=int, nargs="+", default=[250, 1000, 2000, 5000, 20_000])
    parser.add_argument("--candidates", type=int, default=50_000)
    parser.add_argument("--each", action="store_true")
    arguments = parser.parse_args()
    print(
        "| measured | s a proposal, CPU (wall) | the first, CPU (wall) | MiB of the process |\n"
        + "|---" * 4
        + "|",
        flush=True,
    )
    for measured in arguments.measured:
        each = multiprocessing.get_context("spawn").Process(
            target=propose, args=(measured, arguments.candidates, arguments.each)
        )
        each.start()
        each.join()


if __name__ == "__main__":
    main()
