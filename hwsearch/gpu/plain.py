"""A GPU's profile as plain data and back, for one that no file describes: the CPU, measured anew by every
process, whose constants a run keeps so that all its predictions come from the same ones."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import Gpu

_ADAPTER = TypeAdapter(Gpu)


def plain_gpu(gpu: Gpu) -> dict[str, Any]:
    """Mappings, lists, text and numbers alone, as YAML and JSON hold them without loss."""
    data: dict[str, Any] = _ADAPTER.dump_python(gpu, mode="json")
    return data


def gpu_of_plain(data: object, where: str) -> Gpu:
    """What `plain_gpu` was given. Raises HwsearchError, which begins with `where`, for anything else."""
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise HwsearchError(f"{where}: not a GPU's profile: {key}: {first['msg']}") from error
