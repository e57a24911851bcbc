"""Reading a shape from what a user types: a preset, L28-h1024-a16-i2624, a YAML or HF config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hwsearch.errors import HwsearchError
from hwsearch.files import read_yaml
from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.shape.hf_config import read_hf_config
from hwsearch.shape.options import parse_wiring
from hwsearch.shape.presets import PRESETS

_LETTERS = {
    "L": "num_hidden_layers",
    "h": "hidden_size",
    "a": "num_attention_heads",
    "i": "intermediate_size",
    "kv": "num_key_value_heads",
    "g": "global_attn_every_n_layers",
    "w": "local_attention",
    "v": "vocab_size",
    "p": "max_position_embeddings",
}
_NOTATION = re.compile(r"(?:(?:L|h|a|i|kv|g|w|v|p)[0-9]{1,10})(?:-(?:L|h|a|i|kv|g|w|v|p)[0-9]{1,10})*")


def parse_shape(text: str) -> EncoderShape:
    """A shape from a preset's name, the short notation, a shape.yaml, a config.json or its folder.

    Raises HwsearchError, which names what was found and what is accepted.
    """
    if text in PRESETS:
        return PRESETS[text]
    architecture, _, sizes = text.rpartition(":")
    if _NOTATION.fullmatch(sizes):
        return _from_notation(text, architecture, sizes)
    path = Path(text)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".json":
        return read_hf_config(path)
    if path.suffix in (".yaml", ".yml"):
        return read_shape_yaml(path)
    raise HwsearchError(
        f"{text}: no such shape; accepted: a preset ({', '.join(PRESETS)}), the notation"
        " [ARCHITECTURE][+OPTION=VALUE...:]L28-h1024-a16-i2624[-g3][-w128][-v50368], a shape.yaml,"
        " or a Hugging Face config.json or its folder"
    )


def _from_notation(text: str, architecture: str, sizes: str) -> EncoderShape:
    values: dict[str, Any] = {}
    for part in sizes.split("-"):
        letter = part.rstrip("0123456789")
        name = _LETTERS[letter]
        if name in values:
            raise HwsearchError(f"{text}: {letter} stands here twice")
        values[name] = int(part[len(letter) :])
    try:
        family, options = parse_wiring(architecture)
        return EncoderShape.from_dict({"architecture": family, "options": options, **values})
    except HwsearchError as error:
        raise HwsearchError(f"{text}: {error}") from error


def shape_yaml(shape: EncoderShape) -> str:
    """The text of a shape.yaml, which `read_shape_yaml` reads back."""
    return yaml.safe_dump(shape.to_dict(), sort_keys=False)


def read_folder(path: Path) -> EncoderShape:
    """The shape of a model's folder: its shape.yaml, or else its config.json."""
    if (path / "shape.yaml").is_file():
        return read_shape_yaml(path / "shape.yaml")
    if (path / "config.json").is_file():
        return read_hf_config(path / "config.json")
    raise HwsearchError(f"{path}: holds neither shape.yaml nor config.json")


def read_shape_yaml(path: Path) -> EncoderShape:
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        raise HwsearchError(f"{path}: a shape is a mapping of names to sizes")
    try:
        return EncoderShape.from_dict(document.data)
    except HwsearchError as error:
        key = str(error).split(":", 1)[0].split(" ", 1)[0]
        raise HwsearchError(f"{document.where((key,))}: {error}") from error
