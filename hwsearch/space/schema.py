"""What a space file may say, checked by pydantic; the file's own words become a SpaceFile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from hwsearch.errors import HwsearchError
from hwsearch.files import named_yaml, read_yaml
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.settings import AttentionTimes, Head, Mode, RuntimeName
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.architecture import MODERNBERT, Architecture
from hwsearch.shape.encoder_shape import LARGEST_POSITION
from hwsearch.shape.options import wiring
from hwsearch.space.values import LARGEST_COUNT, Count, Values, parse_count
from hwsearch.validation import Section, validate
from hwsearch.workload import Workload, parse_workload

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class RatioRange(Section):
    """2 * intermediate_size / hidden_size, as ModernBERT's authors count it (base 3.0, large 5.125)."""

    min: Ratio
    max: Ratio

    @model_validator(mode="after")
    def _not_empty(self) -> RatioRange:
        if self.min > self.max:
            raise ValueError(f"the range {self.min}..{self.max} is empty")
        return self


class ShapeSection(Section):
    """Candidate sizes. `head_size` times the head count is the width.

    `options` are those of every candidate, as in a shape.yaml.
    """

    num_hidden_layers: Values
    hidden_size: Values
    head_size: Values
    intermediate_size: Values | None = None
    intermediate_ratio: RatioRange | Annotated[list[Ratio], Field(min_length=1, max_length=1000)] | None = (
        None
    )
    global_attn_every_n_layers: Values = (3,)
    local_attention: Values = (128,)
    vocab_size: Values = (50368,)
    max_position_embeddings: Annotated[int, Field(ge=1, le=LARGEST_POSITION)] = 8192
    options: dict[str, str | bool | int | float] = Field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        return wiring(MODERNBERT.name, self.options)

    @model_validator(mode="after")
    def _options_can_be_built(self) -> ShapeSection:
        try:
            plain = self.architecture.initial_plain_layers
        except HwsearchError as error:
            raise ValueError(f"options: {error}") from error
        if plain > min(self.num_hidden_layers):
            raise ValueError(f"options: initial_plain_layers: {plain} are more than num_hidden_layers")
        return self

    @model_validator(mode="after")
    def _feed_forward_given(self) -> ShapeSection:
        if self.intermediate_size is None and self.intermediate_ratio is None:
            raise ValueError("needs intermediate_size, intermediate_ratio or both")
        if self.intermediate_size is not None and isinstance(self.intermediate_ratio, list):
            raise ValueError("a list of intermediate_ratio takes no intermediate_size; a {min, max} does")
        if odd := [w for w in self.local_attention if w % 2]:
            raise ValueError(f"local_attention: {odd[0]} is odd; both sides see half of it")
        if odd := [size for size in self.head_size if size % 2]:
            raise ValueError(f"head_size: {odd[0]} is odd; rotary embeddings turn pairs")
        return self


class Budget(Section):
    """Bounds on the exact count of the masked-LM model with tied decoder, embeddings included."""

    min: Count = 1
    max: Count

    @model_validator(mode="after")
    def _not_empty(self) -> Budget:
        if self.min > self.max:
            raise ValueError(f"the range {self.min:,}..{self.max:,} is empty")
        return self


def load_basket_gpu(name: str) -> Gpu:
    """A profile that a basket may hold; HwsearchError for an unknown name and for `cpu`."""
    if name == CPU:
        raise HwsearchError(
            "cpu is measured anew by every process, so a basket holds it only as --gpus cpu --rung measure"
        )
    return load_gpu(name)


def _known_gpu(name: Any) -> Any:
    try:
        return load_basket_gpu(name).name if isinstance(name, str) else name
    except HwsearchError as error:
        raise ValueError(str(error)) from error


def _known_workload(spec: Any, information: ValidationInfo) -> Any:
    if not isinstance(spec, str):
        return spec
    try:
        return parse_workload(spec, (information.context or {})["folder"])
    except HwsearchError as error:
        raise ValueError(str(error)) from error


def _known_shape(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return parse_shape(text)
    except HwsearchError as error:
        raise ValueError(str(error)) from error


def _bound(found: Any) -> Any:
    if found == "reference" or (isinstance(found, int | float) and not isinstance(found, bool)):
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError(f"found {found}; accepted: a finite number")
        if isinstance(found, int) and abs(found) > LARGEST_COUNT:
            raise ValueError(f"found {str(found)[:20]}...; accepted: up to {LARGEST_COUNT:,}")
        return float(found) if found != "reference" else found
    try:
        return float(parse_count(found))
    except ValueError as error:
        raise ValueError(f"found {found!r}; accepted: a number, a text such as 300M, or reference") from error


GpuName = Annotated[str, BeforeValidator(_known_gpu)]
Lengths = Annotated[Workload, BeforeValidator(_known_workload)]
Reference = Annotated[EncoderShape, BeforeValidator(_known_shape)]
# `reference` stands for the reference shape's own value.
Bound = Annotated[float | Literal["reference"], BeforeValidator(_bound)]


class WeightedWorkload(Section):
    lengths: Lengths
    weight: Share = 1.0


class Objective(Section):
    """Weight 0 keeps the bounds and drops the objective.

    Bounds are in layers (depth), parameters (quality_prior, body_parameters), GiB (memory) or
    milliseconds of the basket's mean (latency).
    """

    weight: Weight = 1.0
    min: Bound | None = None
    max: Bound | None = None


class LatencyObjective(Objective):
    """basket: weighted geometric mean; worst: the GPU that loses most against the reference, whatever
    its weight; each: one objective a GPU."""

    over: Literal["basket", "worst", "each"] = "basket"

    @model_validator(mode="after")
    def _bounds_have_a_meaning(self) -> LatencyObjective:
        if self.over != "basket" and (self.min is not None or self.max is not None):
            raise ValueError("min and max bound the basket's mean; with over: each or worst use limits")
        return self


class Objectives(Section):
    latency: LatencyObjective = LatencyObjective()
    quality_prior: Objective | None = None
    body_parameters: Objective | None = None
    depth: Objective | None = None
    memory: Objective | None = None

    @model_validator(mode="after")
    def _something_to_optimise(self) -> Objectives:
        given = [getattr(self, name) for name in type(self).model_fields]
        if not any(objective is not None and objective.weight > 0 for objective in given):
            raise ValueError("every weight is 0; at least one objective needs a weight above 0")
        return self


Tile = Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(min_length=2, max_length=2)]
# ModernBERT's authors tile by 128 x 256.
_TILE = [128, 256]


class TileDivisibility(Section):
    tile: Tile = _TILE


class WaveUtilisation(Section):
    min: Annotated[float, Field(gt=0, le=1)]
    tile: Tile = _TILE


def _switch(found: Any) -> Any:
    return {} if found is True else None if found is False else found


class Constraints(Section):
    gemm_dims_multiple_of_64: bool = True
    head_size_multiple_of_64: bool = True
    output_tile_divisibility: Annotated[TileDivisibility | None, BeforeValidator(_switch)] = None
    wave_utilisation: Annotated[
        WaveUtilisation | None, BeforeValidator(lambda found: None if found is False else found)
    ] = None
    last_layer_is_global: bool = False


class Limits(Section):
    """What a candidate may need at most, per GPU; predicted now, measured on later rungs."""

    latency_ms: dict[GpuName, Positive] = Field(default_factory=dict)
    memory_gib: dict[GpuName, Positive] = Field(default_factory=dict)
    fits_memory: bool = True


class SpaceFile(Section):
    """A whole space file."""

    shape: ShapeSection
    budget: Budget
    basket: Annotated[dict[GpuName, Share], Field(min_length=1)]
    workloads: Annotated[list[WeightedWorkload], Field(min_length=1)]
    mode: Mode = "inference"
    runtime: RuntimeName = "graph"
    head: Head | None = None
    attention: AttentionTimes = "tuned"
    objectives: Objectives = Objectives()
    constraints: Constraints = Constraints()
    limits: Limits = Limits()
    reference: Reference
    winners: Annotated[int, Field(ge=1, le=100)] = 5

    @model_validator(mode="after")
    def _limits_are_of_the_basket(self) -> SpaceFile:
        for name in (*self.limits.latency_ms, *self.limits.memory_gib):
            if name not in self.basket:
                raise ValueError(f"limits: {name} is not in the basket; accepted: {', '.join(self.basket)}")
        return self


def find_space(name: str) -> Path:
    """A space's path from a path, or from the name of a shipped space."""
    return named_yaml(name, "spaces", "space")


def read_space_file(path: Path) -> SpaceFile:
    """Read and validate one space; every mistake in it is listed with its line."""
    return validate(SpaceFile, read_yaml(path), "space", context={"folder": path.parent})
