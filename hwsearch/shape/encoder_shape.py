"""EncoderShape: the sizes of one encoder, under ModernBertConfig's names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwsearch.errors import HwsearchError
from hwsearch.shape.architecture import ARCHITECTURES, LATER_FIELDS, MODERNBERT, Architecture
from hwsearch.shape.options import options_of, wiring, wiring_text

# Far beyond any encoder; keeps every count of a table inside 64 bits.
LARGEST_SIZE = 300_000
LARGEST_POSITION = 10**9


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """One candidate encoder.

    Attributes:
        num_hidden_layers: depth L.
        hidden_size: width h.
        num_attention_heads: query heads; the head size is hidden_size / num_attention_heads.
        intermediate_size: one GLU branch; the fused input matrix has twice as many rows.
        num_key_value_heads: grouped attention; None means one per query head.
        global_attn_every_n_layers: layer i attends globally where i % n == 0, else locally.
        local_attention: 128 means |i - j| <= 64, so up to 129 visible keys.

    Raises HwsearchError where a size is not an integer from 1 to LARGEST_SIZE or heads do not divide the
    width.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 50368
    global_attn_every_n_layers: int = 3
    local_attention: int = 128
    max_position_embeddings: int = 8192
    num_key_value_heads: int | None = None
    architecture: Architecture = MODERNBERT

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        for name, value in self.sizes().items():
            largest = LARGEST_POSITION if name == "max_position_embeddings" else LARGEST_SIZE
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise HwsearchError(f"{name}: {value!r} is not an integer from 1 to {largest:,}")
        if self.hidden_size % self.num_attention_heads:
            raise HwsearchError(
                f"num_attention_heads: {self.num_attention_heads} does not divide"
                f" hidden_size {self.hidden_size}"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise HwsearchError(
                f"num_key_value_heads: {self.key_value_heads} does not divide"
                f" num_attention_heads {self.num_attention_heads}"
            )
        if self.architecture.position == "rope" and self.head_size % 2:
            raise HwsearchError(f"head size {self.head_size} is odd; rotary embeddings turn pairs")
        if self.local_attention % 2:
            raise HwsearchError(f"local_attention: {self.local_attention} is odd; both sides see half of it")
        if self.architecture.initial_plain_layers > self.num_hidden_layers:
            raise HwsearchError(
                f"initial_plain_layers: {self.architecture.initial_plain_layers} are more than"
                f" num_hidden_layers {self.num_hidden_layers}"
            )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def num_global_layers(self) -> int:
        return -(-self.num_hidden_layers // self.global_attn_every_n_layers)

    @property
    def window(self) -> int:
        """Keys visible to each side in a local layer."""
        return self.local_attention // 2

    def sizes(self) -> dict[str, int]:
        """Every size by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "architecture"}

    def to_dict(self) -> dict[str, Any]:
        """What shape.yaml holds; `from_dict` reads it back."""
        options = options_of(self.architecture)
        named = {"architecture": self.architecture.name} | ({"options": options} if options else {})
        return named | self.sizes()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderShape:
        """Raises HwsearchError for unknown keys, missing keys, wrong types or an unknown wiring."""
        accepted = {f.name for f in fields(cls)} | {"options"}
        if unknown := sorted(str(key) for key in set(data) - accepted):
            raise HwsearchError(f"unknown key {unknown[0]!r}; accepted: {', '.join(sorted(accepted))}")
        required = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
        if missing := [key for key in required if key not in data]:
            raise HwsearchError(f"{missing[0]} is missing; required: {', '.join(required)}")
        values = dict(data)
        name = values.pop("architecture", MODERNBERT.name)
        options = values.pop("options", {})
        if not isinstance(options, Mapping):
            raise HwsearchError(f"options: found {options!r}; accepted: a mapping of names to values")
        return cls(architecture=wiring(str(name), options), **values)

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this shape in studies and files."""
        family = ARCHITECTURES.get(self.architecture.name, MODERNBERT)
        wired = asdict(self.architecture)
        for name in LATER_FIELDS:
            if wired[name] == getattr(family, name):
                del wired[name]
        content = repr((sorted(self.sizes().items()), sorted(wired.items())))
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Short notation, as `hwsearch.shape.notation.parse_shape` reads it."""
        text = "" if self.architecture == MODERNBERT else f"{wiring_text(self.architecture)}:"
        text += f"L{self.num_hidden_layers}-h{self.hidden_size}"
        text += f"-a{self.num_attention_heads}-i{self.intermediate_size}"
        if self.key_value_heads != self.num_attention_heads:
            text += f"-kv{self.num_key_value_heads}"
        for letter, name in (
            ("g", "global_attn_every_n_layers"),
            ("w", "local_attention"),
            ("v", "vocab_size"),
            ("p", "max_position_embeddings"),
        ):
            if getattr(self, name) != getattr(EncoderShape, name):
                text += f"-{letter}{getattr(self, name)}"
        return text
