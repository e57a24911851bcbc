"""hwsearch space check|show"""

from __future__ import annotations

import argparse

import numpy as np

from hwsearch.space.grid import enumerate_grid, random_shapes
from hwsearch.space.search_space import (
    LARGEST_GRID,
    SearchSpace,
    describe_removals,
    filter_shapes,
    load_space,
    preset_obstacles,
)

SAMPLE = 1_000_000


def main(arguments: argparse.Namespace) -> None:
    space = load_space(arguments.space)
    if arguments.action == "check":
        print(
            f"{space.name}: valid; {space.size:,} shapes,"
            f" {len(space.gpus)} GPUs, {len(space.workloads)} workloads"
        )
    else:
        _show(space)


def _show(space: SearchSpace) -> None:
    if space.size <= LARGEST_GRID:
        shapes = enumerate_grid(space.file.shape)
    else:
        shapes = random_shapes(space.file.shape, np.random.default_rng(0), SAMPLE)
        print(f"{space.size:,} shapes are too many to count; below, {len(shapes):,} drawn at random\n")
    _, removals = filter_shapes(shapes, space.constraints)
    print(describe_removals(space, removals))
    print("\npreset                in the space, or what keeps it out")
    for name, obstacles in preset_obstacles(space).items():
        print(f"{name:<22}{', '.join(obstacles) or 'in'}")
