"""YAML files checked against a pydantic model; every mistake is named with its line."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hwsearch.errors import HwsearchError
from hwsearch.files import YamlDocument


class Section(BaseModel):
    # strict: a quoted number is a mistake that the user wants to hear about
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


AnySection = TypeVar("AnySection", bound=Section)


def validate(
    model: type[AnySection], document: YamlDocument, what: str, context: dict[str, Any] | None = None
) -> AnySection:
    """The document as a `model`; `what` names it in messages ("space").

    Raises HwsearchError with one line a mistake: where it stands, what was found, what is accepted.
    """
    if not isinstance(document.data, dict):
        raise HwsearchError(f"{document.path}: a {what} is a mapping; accepted keys: {_keys(model)}")
    try:
        return model.model_validate(document.data, context=context)
    except ValidationError as error:
        raise HwsearchError("\n".join(_mistakes(model, document, what, error))) from error


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _mistakes(model: type[BaseModel], document: YamlDocument, what: str, error: ValidationError) -> list[str]:
    lines = []
    for mistake in error.errors(include_url=False):
        keys = _keys_in_file(document, mistake["loc"])
        name = ".".join(str(key) for key in keys) or what
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = f"unknown key; accepted: {_keys(_model_at(model, keys[:-1]))}"
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
            part == location[-1] and isinstance(part, str) and part in _field_names(Section)
        ):
            keys = (*keys, part)
    return keys


def _field_names(model: type[BaseModel]) -> set[str]:
    """Of the model and of every section below it."""
    return set(model.model_fields).union(*(_field_names(below) for below in model.__subclasses__()))


def _model_at(model: type[BaseModel], keys: tuple[int | str, ...]) -> type[BaseModel]:
    """The section of the schema that the keys lead to."""
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
