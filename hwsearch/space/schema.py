"""What a space file may say, checked by pydantic; the file's own words become a SpaceFile."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from hwsearch.errors import HwsearchError
from hwsearch.files import YamlDocument, data_folder, read_yaml
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.settings import AttentionTimes, Head, Mode, RuntimeName
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.encoder_shape import LARGEST_POSITION
from hwsearch.space.values import LARGEST_COUNT, Count, Values, parse_count
from hwsearch.workload import Workload, parse_workload

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class _Section(BaseModel):
    # strict: a quoted number is a mistake that the user wants to hear about
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class RatioRange(_Section):
    """2 * intermediate_size / hidden_size, as ModernBERT's authors count it (base 3.0, large 5.125)."""

    min: Ratio
    max: Ratio

    @model_validator(mode="after")
    def _not_empty(self) -> RatioRange:
        if self.min > self.max:
            raise ValueError(f"the range {self.min}..{self.max} is empty")
        return self


class ShapeSection(_Section):
    """Candidate sizes. `head_size` times the head count is the width."""

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


class Budget(_Section):
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
        raise HwsearchError("cpu is measured anew by every process, so a predicted basket cannot hold it")
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


class WeightedWorkload(_Section):
    lengths: Lengths
    weight: Share = 1.0


class Objective(_Section):
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


class Objectives(_Section):
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


class TileDivisibility(_Section):
    tile: Tile = _TILE


class WaveUtilisation(_Section):
    min: Annotated[float, Field(gt=0, le=1)]
    tile: Tile = _TILE


def _switch(found: Any) -> Any:
    return {} if found is True else None if found is False else found


class Constraints(_Section):
    gemm_dims_multiple_of_64: bool = True
    head_size_multiple_of_64: bool = True
    output_tile_divisibility: Annotated[TileDivisibility | None, BeforeValidator(_switch)] = None
    wave_utilisation: Annotated[
        WaveUtilisation | None, BeforeValidator(lambda found: None if found is False else found)
    ] = None
    last_layer_is_global: bool = False


class Limits(_Section):
    """What a candidate may need at most, per GPU; predicted now, measured on later rungs."""

    latency_ms: dict[GpuName, Positive] = {}
    memory_gib: dict[GpuName, Positive] = {}
    fits_memory: bool = True


class SpaceFile(_Section):
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
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = data_folder("spaces") / f"{name}.yaml"
    if not shipped.is_file():
        names = ", ".join(sorted(p.stem for p in data_folder("spaces").glob("*.yaml")))
        raise HwsearchError(f"{name}: no such space; accepted: a YAML file, or one of {names}")
    return shipped


def read_space_file(path: Path) -> SpaceFile:
    """Read and validate one space; every mistake in it is listed with its line."""
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise HwsearchError(f"{path}: a space is a mapping; accepted keys: {_keys(SpaceFile)}")
    try:
        return SpaceFile.model_validate(document.data, context={"folder": path.parent})
    except ValidationError as error:
        raise HwsearchError("\n".join(_mistakes(document, error))) from error


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _mistakes(document: YamlDocument, error: ValidationError) -> list[str]:
    """One line a mistake: where it stands, what was found, what is accepted."""
    lines = []
    for mistake in error.errors(include_url=False):
        keys = _keys_in_file(document, mistake["loc"])
        name = ".".join(str(key) for key in keys) or "space"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = f"unknown key; accepted: {_keys(_model_at(keys[:-1]))}"
        elif mistake["type"] == "missing":
            message = "is missing"
        elif mistake["type"] == "float_type" and _is_number(mistake["input"]):
            message = f"found the text {mistake['input']!r}; YAML writes such a number as in 1.0e-3"
        elif mistake["type"] != "value_error":
            message = f"found {mistake['input']!r}; {message[0].lower()}{message[1:]}"
        lines.append(f"{document.where(keys)}: {name}: {message}")
    return lines


def _is_number(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _keys_in_file(document: YamlDocument, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic's location without the names it adds for union members and dict keys."""
    keys: tuple[int | str, ...] = ()
    for part in location:
        if (*keys, part) in document.lines or (
            part == location[-1] and isinstance(part, str) and part in _field_names()
        ):
            keys = (*keys, part)
    return keys


def _field_names() -> set[str]:
    return {
        name
        for model in _Section.__subclasses__() + Objective.__subclasses__()
        for name in model.model_fields
    }


def _model_at(keys: tuple[int | str, ...]) -> type[BaseModel]:
    """The section of the schema that the keys lead to."""
    model: type[BaseModel] = SpaceFile
    for key in keys:
        if isinstance(key, int) or key not in model.model_fields:
            continue
        model = _section_of(model.model_fields[key].annotation) or model
    return model


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _section_of(part)) is not None:
            return found
    return None
