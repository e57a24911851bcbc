"""Writing a shape in one of the export formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.export.flexbert import flexbert_text
from hwsearch.export.hf import SpecialIds, hf_config_text
from hwsearch.files import write_whole
from hwsearch.shape import EncoderShape
from hwsearch.shape.notation import shape_yaml

FORMATS: dict[str, tuple[str, Callable[[EncoderShape], str]]] = {
    "hf": ("config.json", hf_config_text),
    "flexbert": ("flexbert.yaml", flexbert_text),
    "yaml": ("shape.yaml", shape_yaml),
}


def exports(shape: EncoderShape, format: str) -> bool:
    """Whether the format can hold the shape."""
    try:
        FORMATS[format][1](shape)
    except (HwsearchError, KeyError):
        return False
    return True


def config_beside_weights(shape: EncoderShape, ids: SpecialIds | None = None) -> tuple[str, str]:
    """Name and text of the file that says what a folder's weights are: config.json with the token ids where
    transformers can build the shape, else shape.yaml. `hwsearch.model.read_checkpoint` reads both."""
    if exports(shape, "hf"):
        return "config.json", hf_config_text(shape, ids)
    return "shape.yaml", shape_yaml(shape)


def write_export(shape: EncoderShape, format: str, out: Path) -> list[Path]:
    """Write `shape` into the folder `out` and return the files written.

    Args:
        shape: what to export.
        format: "hf" writes config.json, "flexbert" flexbert.yaml, "yaml" shape.yaml.
        out: a folder, created if need be; an older file of the same name is replaced whole,
            nothing else in it is touched.

    Raises HwsearchError for an unknown format, a shape that the format cannot hold, or a folder
    that cannot be written; nothing is written then.
    """
    if format not in FORMATS:
        raise HwsearchError(f"format: {format!r} is unknown; accepted: {', '.join(FORMATS)}")
    name, text_of = FORMATS[format]
    text = text_of(shape)
    write_whole(out / name, text)
    return [out / name]
