"""How fast a grid is judged: a million shapes on the seven GPUs of spaces/large.yaml.

Prints the time to constrain and price the whole grid (median of several runs), and the ratio against
pricing the same shapes one at a time, in turn and on a sample, since a million would take hours.

    python benchmarks/grid.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hwsearch.cost.prediction import predict_shape
from hwsearch.search.candidates import price, settings_of
from hwsearch.search.objectives import objectives
from hwsearch.search.pareto import front_rows
from hwsearch.shape.table import ShapeTable
from hwsearch.space.grid import enumerate_grid
from hwsearch.space.schema import ShapeSection
from hwsearch.space.search_space import SearchSpace, filter_shapes, load_space

MILLION_SHAPES = ShapeSection.model_validate(
    {
        "num_hidden_layers": {"min": 6, "max": 67},
        "hidden_size": {"min": 512, "max": 2048, "step": 64},
        "head_size": 64,
        "intermediate_size": {"min": 512, "max": 8192, "step": 64},
        "intermediate_ratio": {"min": 1.5, "max": 8.0},
        "global_attn_every_n_layers": [1, 2, 3, 4],
        "local_attention": [64, 128, 256],
        "vocab_size": 50368,
    }
)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def judge(space: SearchSpace, shapes: ShapeTable, reference: ShapeTable) -> int:
    """Constrain, price and find the front, as a run does."""
    filter_shapes(shapes, space.constraints)
    candidates = price(space, shapes)
    found = objectives(space, candidates, price(space, reference))
    return len(front_rows(np.stack([objective.losses for objective in found], axis=1)))


def one_by_one(space: SearchSpace, shapes: ShapeTable) -> None:
    settings = settings_of(space)
    for row in range(len(shapes)):
        for gpu in space.gpus:
            for workload in space.workloads:
                predict_shape(
                    shapes.shape(row),
                    gpu,
                    workload,
                    mode=settings.mode,
                    runtime=settings.runtime,
                    head=settings.head,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sample", type=int, default=20, help="shapes priced one at a time")
    arguments = parser.parse_args()
    large = load_space("large")
    space = replace(large, file=large.file.model_copy(update={"shape": MILLION_SHAPES}))
    shapes = enumerate_grid(space.file.shape)
    reference = ShapeTable.of([space.reference])
    sample = shapes.take(np.random.default_rng(0).integers(len(shapes), size=arguments.sample))
    for workloads in (1, len(space.workloads)):
        part = replace(
            space, workloads=space.workloads[:workloads], workload_weights=space.workload_weights[:workloads]
        )
        whole, single = [], []
        for _ in range(arguments.runs):
            whole.append(seconds(judge, part, shapes, reference))
            single.append(seconds(one_by_one, part, sample))
        per_million = statistics.median(whole) / len(shapes) * 1e6
        per_million_single = statistics.median(single) / len(sample) * 1e6
        print(
            f"{len(shapes):,} shapes x {len(space.gpus)} GPUs x {workloads} workloads:"
            f" median {statistics.median(whole):.2f} s ({min(whole):.2f} to {max(whole):.2f}),"
            f" {per_million:.2f} s a million; one at a time {per_million_single:,.0f} s a million,"
            f" ratio {per_million_single / per_million:,.0f}"
        )


if __name__ == "__main__":
    main()
