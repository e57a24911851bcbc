"""Reading a shape from a transformers config.json of ModernBERT, layout of version 4 or 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text
from hwsearch.shape.architecture import GLOBAL_THETA, LOCAL_THETA, Activation
from hwsearch.shape.encoder_shape import EncoderShape

# Names of transformers' ACT2FN; those of one activation differ in how they are computed only.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "local_attention",
    "max_position_embeddings",
)
# Switches of ModernBertConfig with their defaults, and the options that they set.
SWITCHES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "attention_bias": (False, ("qkv_bias", "attention_out_bias")),
    "mlp_bias": (False, ("mlp_in_bias", "mlp_out_bias")),
    "norm_bias": (False, ("norm_bias",)),
    "classifier_bias": (False, ("head_bias",)),
    "decoder_bias": (True, ("decoder_bias",)),
    "tie_word_embeddings": (True, ("tied_decoder",)),
}
# Options, the keys of the two layouts that set them, and the kind of layer.
THETAS = (
    ("global_rope_theta", "full_attention", GLOBAL_THETA),
    ("local_rope_theta", "sliding_attention", LOCAL_THETA),
)


def read_hf_config(path: Path) -> EncoderShape:
    """The shape of the model that transformers builds from `path`, a config.json of ModernBERT.

    Raises HwsearchError for other model types, for layer patterns that are not "global every n-th layer",
    for scaled rotations and for activations that have no option.
    """
    config = _config(path)
    values = {name: config[name] for name in SIZES if name in config}
    try:
        values["global_attn_every_n_layers"] = _global_every(config)
        return EncoderShape.from_dict({**values, "options": _options(config)})
    except HwsearchError as error:
        raise HwsearchError(f"{path}: {error}") from error


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise HwsearchError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise HwsearchError(f"{path}: not a config: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "modernbert":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise HwsearchError(f"{path}: model_type: found {found!r}; accepted: 'modernbert'")
    return config


def _options(config: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, (default, names) in SWITCHES.items():
        value = config.get(key, default)
        if not isinstance(value, bool):
            raise HwsearchError(f"{key}: found {value!r}; accepted: true, false")
        options |= dict.fromkeys(names, value)
    for key, name in (("hidden_activation", "activation"), ("classifier_activation", "head_activation")):
        value = config.get(key, "gelu")
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise HwsearchError(f"{key}: found {value!r}; accepted: {', '.join(ACTIVATIONS)}")
        options[name] = ACTIVATIONS[value]
    if "norm_eps" in config:
        options["norm_eps"] = config["norm_eps"]
    return options | _thetas(config)


def _thetas(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("rope_scaling") is not None:
        raise HwsearchError(f"rope_scaling: found {config['rope_scaling']!r}; accepted: none")
    nested = config.get("rope_parameters") or {}
    if not isinstance(nested, dict):
        raise HwsearchError(f"rope_parameters: found {nested!r}; accepted: a mapping of layer types")
    thetas: dict[str, Any] = {}
    for name, kind, default in THETAS:
        rotation = nested.get(kind) or {}
        if not isinstance(rotation, dict) or rotation.get("rope_type", "default") != "default":
            raise HwsearchError(f"rope_parameters: {kind}: found {rotation!r}; accepted: rope_type default")
        thetas[name] = rotation.get("rope_theta", config.get(name, default))
    # Version 4 rotates local layers as global ones where it names no base for them.
    if thetas["local_rope_theta"] is None:
        thetas["local_rope_theta"] = thetas["global_rope_theta"]
    return thetas


def _global_every(config: dict[str, Any]) -> Any:
    layer_types, default = config.get("layer_types"), EncoderShape.global_attn_every_n_layers
    if layer_types is None:
        return config.get("global_attn_every_n_layers", default)
    depth = config.get("num_hidden_layers")
    if not isinstance(layer_types, list) or len(layer_types) != depth:
        raise HwsearchError(f"layer_types: accepted: a list, one entry for each of {depth} layers")
    if unknown := [kind for kind in layer_types if kind not in ("full_attention", "sliding_attention")]:
        raise HwsearchError(f"layer_types: found {unknown[0]!r}; accepted: full_attention, sliding_attention")
    spots = [i for i, kind in enumerate(layer_types) if kind == "full_attention"]
    # One global layer fits every n from the depth up: the same encoder, so ModernBERT's 3 where it does.
    every = spots[1] if len(spots) > 1 else max(len(layer_types), default)
    if spots != list(range(0, len(layer_types), every)):
        raise HwsearchError(
            f"layer_types: full attention in layers {spots}; accepted: layers 0, n, 2n, ... for one n"
        )
    return every
