"""SearchSpace: a validated space file with its GPUs and workloads loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.settings import Head
from hwsearch.shape import PRESETS, EncoderShape
from hwsearch.shape.options import wiring_text
from hwsearch.shape.table import ShapeTable
from hwsearch.space.constraints import Constraint, known_constraints
from hwsearch.space.grid import enumerate_grid, grid_size, intermediate_sizes
from hwsearch.space.schema import SpaceFile, find_space, load_basket_gpu, read_space_file
from hwsearch.workload import Workload

# Above this a space is explored by a sampler, not enumerated.
LARGEST_GRID = 5_000_000


@dataclass(frozen=True)
class Removal:
    """How many shapes one constraint removed, of those that the ones before it had left."""

    constraint: str
    removed: int
    left: int


@dataclass(frozen=True)
class SearchSpace:
    """A space, ready to be enumerated and priced.

    Attributes:
        name: the file's stem; it names the run folder.
        file: the validated content.
        gpus: profiles of the basket, in the file's order, with `weights` beside them.
    """

    name: str
    file: SpaceFile
    gpus: tuple[Gpu, ...]
    weights: tuple[float, ...]
    workloads: tuple[Workload, ...]
    workload_weights: tuple[float, ...]

    @property
    def head(self) -> Head:
        return self.file.head or ("mlm" if self.file.mode == "training" else "none")

    @property
    def reference(self) -> EncoderShape:
        return self.file.reference

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        return known_constraints(self.file, self.gpus, self.workloads)

    @cached_property
    def size(self) -> int:
        """Shapes in the grid before any constraint."""
        return grid_size(self.file.shape)

    def description(self) -> dict[str, Any]:
        """The space in plain data, every default spelled out; how many winners are written is no part."""
        file = self.file.model_dump(mode="json", exclude={"basket", "workloads", "reference", "winners"})
        if not file["shape"]["options"]:
            del file["shape"]["options"]  # so that runs from before there were options go on
        return {
            **file,
            "basket": dict(self._basket()),
            "workloads": [
                {"lengths": workload.spec, "weight": weight}
                for workload, weight in zip(self.workloads, self.workload_weights, strict=True)
            ],
            "reference": self.reference.to_dict(),
        }

    def with_gpus(self, names: Sequence[str], cpu: Gpu | None = None) -> SearchSpace:
        """The same space over another basket; a GPU keeps its weight, a new one gets 1.

        Args:
            cpu: the profile that `cpu` stands for; without it a basket takes none.
        """
        if not names:
            raise HwsearchError("--gpus: no GPU named; accepted: names joined by commas, as in t4,l4")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise HwsearchError(f"--gpus: {repeated[0]} stands there twice")
        known = dict(self._basket())
        return replace(
            self,
            gpus=tuple(cpu if cpu and name == CPU else load_basket_gpu(name) for name in names),
            weights=tuple(known.get(name, 1.0) for name in names),
        )

    def _basket(self) -> list[tuple[str, float]]:
        return [(gpu.name, weight) for gpu, weight in zip(self.gpus, self.weights, strict=True)]


def load_space(name: str) -> SearchSpace:
    """A space from a file's path or a shipped space's name. Raises HwsearchError."""
    path: Path = find_space(name)
    if not path.stem.isprintable():
        raise HwsearchError(f"{name!r}: a space's name must be printable text; rename the file")
    file = read_space_file(path)
    space = SearchSpace(
        name=path.stem,
        file=file,
        gpus=tuple(load_basket_gpu(gpu) for gpu in file.basket),
        weights=tuple(file.basket.values()),
        workloads=tuple(w.lengths for w in file.workloads),
        workload_weights=tuple(w.weight for w in file.workloads),
    )
    if space.size == 0:
        raise HwsearchError(
            f"{path}: the grid is empty: no head_size divides a hidden_size, or no intermediate_size has an"
            " accepted intermediate_ratio"
        )
    return space


def valid_shapes(space: SearchSpace) -> tuple[ShapeTable, list[Removal]]:
    """The grid after every known constraint, and what each of them removed.

    Raises HwsearchError where the grid is too large to enumerate or nothing is left of it.
    """
    if space.size > LARGEST_GRID:
        raise HwsearchError(
            f"{space.name}: {space.size:,} shapes are too many to enumerate (more than {LARGEST_GRID:,})"
        )
    shapes, removals = filter_shapes(enumerate_grid(space.file.shape), space.constraints)
    if not len(shapes):
        raise HwsearchError(f"{space.name}: no shape is left.\n{describe_removals(space, removals)}")
    return shapes, removals


def filter_shapes(shapes: ShapeTable, constraints: Sequence[Constraint]) -> tuple[ShapeTable, list[Removal]]:
    removals = []
    for constraint in constraints:
        kept = shapes.take(constraint.passes(shapes))
        removals.append(Removal(constraint.name, len(shapes) - len(kept), len(kept)))
        shapes = kept
    return shapes, removals


def describe_removals(space: SearchSpace, removals: Sequence[Removal]) -> str:
    total = removals[0].removed + removals[0].left
    lines = [f"{'shapes in the grid':<28}{total:>12,}"]
    lines += [f"{r.constraint:<28}{-r.removed:>12,}{r.left:>12,} left" for r in removals]
    return "\n".join(lines)


def preset_obstacles(space: SearchSpace) -> dict[str, list[str]]:
    """For each preset, what keeps it out of the space: constraints, and sizes that are not in the grid."""
    section = space.file.shape
    obstacles: dict[str, list[str]] = {}
    for name, shape in PRESETS.items():
        found = []
        if shape.architecture != section.architecture:
            found.append(f"architecture ({wiring_text(shape.architecture)})")
        for field, value in (
            ("num_hidden_layers", shape.num_hidden_layers),
            ("hidden_size", shape.hidden_size),
            ("head_size", shape.head_size),
            ("global_attn_every_n_layers", shape.global_attn_every_n_layers),
            ("vocab_size", shape.vocab_size),
            ("max_position_embeddings", shape.max_position_embeddings),
        ):
            candidates = getattr(section, field)
            if value not in (candidates if isinstance(candidates, tuple) else (candidates,)):
                found.append(f"{field} ({value})")
        if shape.global_attn_every_n_layers > 1 and shape.local_attention not in section.local_attention:
            found.append(f"local_attention ({shape.local_attention})")
        if shape.intermediate_size not in intermediate_sizes(section, shape.hidden_size):
            found.append(f"intermediate_size ({shape.intermediate_size})")
        table = ShapeTable.of([shape])
        found += [c.name for c in space.constraints if not c.passes(table)[0]]
        obstacles[name] = found
    return obstacles
