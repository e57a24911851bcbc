"""Options: how a shape's wiring may differ from its family's, and how a user writes that.

An option is a name and a value. In a shape.yaml they are a mapping, in the short notation they follow the
family's name, which may be left out for ModernBERT:

    options: {norm: rmsnorm, activation: silu, global_rope_theta: 80000}
    modernbert+activation=silu+norm=rmsnorm+global_rope_theta=80000:L12-h512-a8-i1024
    +mlp=plain:L12-h512-a8-i2048

Both hold only what differs from the family, in the order of the table below, so that a shape without
options is written as it always was, and one with options reads back as itself. Every option is one that
the authors' trainer FlexBERT has, apart from tied_decoder and norm_eps, which transformers' configs have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, get_args

from hwsearch.errors import HwsearchError
from hwsearch.shape.architecture import ARCHITECTURES, MODERNBERT, Activation, Architecture

Fields = dict[str, Any]


def _switch(field: str) -> dict[str, Fields]:
    return {"false": {field: False}, "true": {field: True}}


# What each value of an option sets.
CHOICES: dict[str, dict[str, Fields]] = {
    "mlp": {"glu": {"gated_mlp": True}, "plain": {"gated_mlp": False}},
    "activation": {name: {"activation": name} for name in get_args(Activation)},
    "norm": {"layernorm": {"norm": "layernorm"}, "rmsnorm": {"norm": "rmsnorm", "norm_weights": 1}},
    "norm_bias": {"false": {"norm_weights": 1}, "true": {"norm_weights": 2}},
    "norm_order": {
        "pre": {"final_norm": True},
        "post": {"final_norm": False, "first_attention_norm": True},
    },
    "embedding_norm": {
        "true": {"embedding_norm": True},
        "false": {"embedding_norm": False, "first_attention_norm": True},
    },
    "first_attention_norm": _switch("first_attention_norm"),
    "position": {kind: {"position": kind, "position_rows": 0} for kind in ("rope", "learned")},
    "qkv_bias": _switch("qkv_bias"),
    "attention_out_bias": _switch("attention_out_bias"),
    "mlp_in_bias": _switch("mlp_in_bias"),
    "mlp_out_bias": _switch("mlp_out_bias"),
    "head_activation": {name: {"head_activation": name} for name in get_args(Activation)},
    "head_bias": _switch("mlm_transform_bias"),
    "decoder_bias": _switch("decoder_bias"),
    "tied_decoder": _switch("tied_decoder"),
}
# Least and largest value, of the type that is accepted.
NUMBERS: dict[str, tuple[float, float]] = {
    "initial_plain_layers": (0, 1000),
    "norm_eps": (1e-12, 0.1),
    "global_rope_theta": (1.0, 1e12),
    "local_rope_theta": (1.0, 1e12),
}


def wiring(family: str, options: Mapping[str, Any] | None = None) -> Architecture:
    """A family's architecture with options, whose values may be texts.

    Raises HwsearchError for an unknown family, option or value, and for options that exclude each other.
    """
    if family not in ARCHITECTURES:
        raise HwsearchError(f"architecture: {family!r} is unknown; accepted: {', '.join(ARCHITECTURES)}")
    options = options or {}
    for name in options:
        if name not in CHOICES and name not in NUMBERS:
            accepted = ", ".join((*CHOICES, *NUMBERS))
            raise HwsearchError(f"options: {name!r} is unknown; accepted: {accepted}")
    fields: dict[str, Any] = {}
    # In the table's order: a later option may take back what an earlier one brought along.
    for name, choices in CHOICES.items():
        if name in options:
            fields |= _chosen(name, choices, options[name])
    fields |= {name: _number(name, options[name]) for name in NUMBERS if name in options}
    return replace(ARCHITECTURES[family], **fields)


def options_of(architecture: Architecture) -> dict[str, Any]:
    """What `wiring` needs beside the family's name; values are text, bool, int or float."""
    wanted, found = asdict(architecture), asdict(ARCHITECTURES.get(architecture.name, MODERNBERT))
    options: dict[str, Any] = {}
    for name, choices in CHOICES.items():
        for value, fields in choices.items():
            if all(wanted[field] == v for field, v in fields.items()) and found != found | fields:
                found |= fields
                options[name] = {"true": True, "false": False}.get(value, value)
    return options | {name: wanted[name] for name in NUMBERS if wanted[name] != found[name]}


def with_options(architecture: Architecture, **options: Any) -> Architecture:
    """The same wiring with some options changed. Raises HwsearchError as `wiring`."""
    return wiring(architecture.name, options_of(architecture) | options)


def wiring_text(architecture: Architecture) -> str:
    """`modernbert+norm=rmsnorm`, which `parse_wiring` reads."""
    return "+".join([architecture.name, *(f"{n}={_text(v)}" for n, v in options_of(architecture).items())])


def parse_wiring(text: str) -> tuple[str, dict[str, str]]:
    """The family's name and its options, not yet checked. Raises HwsearchError."""
    family, *parts = text.split("+")
    return family or MODERNBERT.name, dict(_assignments(parts))


def _assignments(parts: Iterable[str]) -> Iterable[tuple[str, str]]:
    seen = set()
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise HwsearchError(f"options: found {part!r}; accepted: NAME=VALUE")
        if name in seen:
            raise HwsearchError(f"options: {name} stands here twice")
        seen.add(name)
        yield name, value


def _chosen(name: str, choices: Mapping[str, Fields], value: Any) -> Fields:
    if _text(value) not in choices:
        raise HwsearchError(f"{name}: found {value!r}; accepted: {', '.join(choices)}")
    return choices[_text(value)]


def _number(name: str, value: Any) -> int | float:
    least, largest = NUMBERS[name]
    try:
        # YAML takes 1e-6 for a text.
        number = math.nan if isinstance(value, bool) else type(least)(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= largest or (isinstance(value, float) and number != value):
        kind = "an integer" if isinstance(least, int) else "a number"
        raise HwsearchError(f"{name}: found {value!r}; accepted: {kind} from {least:g} to {largest:g}")
    return number


def _text(value: Any) -> str:
    """As it stands in the notation: 80000, 1e-06, true, silu."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
