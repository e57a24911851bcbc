"""Reading a shape from what a user types: a preset, L28-h1024-a16-i2624, a YAML or HF config."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text, read_yaml
from hwsearch.shape.encoder_shape import EncoderShape
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
        return _from_folder(path)
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


def _from_folder(path: Path) -> EncoderShape:
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


def read_hf_config(path: Path) -> EncoderShape:
    """A ModernBERT config.json, layout of transformers 4 or 5.

    Raises HwsearchError for other model types and for layer patterns that are not
    "global every n-th layer".
    """
    try:
        config = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise HwsearchError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise HwsearchError(f"{path}: not a config: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "modernbert":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise HwsearchError(f"{path}: model_type: found {found!r}; accepted: 'modernbert'")
    for key, expected in _MODERNBERT_WIRING.items():
        if config.get(key, expected) is not expected:
            raise HwsearchError(f"{path}: {key}: found {config[key]!r}; accepted: {expected}")
    values = {name: config[name] for name in _HF_SIZES if name in config}
    values["global_attn_every_n_layers"] = _global_every(config, path)
    try:
        return EncoderShape.from_dict(values)
    except HwsearchError as error:
        raise HwsearchError(f"{path}: {error}") from error


_HF_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "local_attention",
    "max_position_embeddings",
)
# Switches of ModernBertConfig that would change the parameters; only the released wiring has a shape here.
_MODERNBERT_WIRING = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
}


def _global_every(config: dict[str, Any], path: Path) -> Any:
    layer_types, default = config.get("layer_types"), EncoderShape.global_attn_every_n_layers
    if layer_types is None:
        return config.get("global_attn_every_n_layers", default)
    depth = config.get("num_hidden_layers")
    if not isinstance(layer_types, list) or len(layer_types) != depth:
        raise HwsearchError(f"{path}: layer_types: accepted: a list, one entry for each of {depth} layers")
    if unknown := [kind for kind in layer_types if kind not in ("full_attention", "sliding_attention")]:
        raise HwsearchError(
            f"{path}: layer_types: found {unknown[0]!r}; accepted: full_attention, sliding_attention"
        )
    spots = [i for i, kind in enumerate(layer_types) if kind == "full_attention"]
    # One global layer fits every n from the depth up: the same encoder, so ModernBERT's 3 where it does.
    every = spots[1] if len(spots) > 1 else max(len(layer_types), default)
    if spots != list(range(0, len(layer_types), every)):
        raise HwsearchError(
            f"{path}: layer_types: full attention in layers {spots}; accepted: layers 0, n, 2n, ... for one n"
        )
    return every
