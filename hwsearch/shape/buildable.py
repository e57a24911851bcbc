"""Which shapes hwsearch.model builds. No torch: jobs are checked where none is installed."""

from __future__ import annotations

from hwsearch.errors import HwsearchError
from hwsearch.shape.encoder_shape import EncoderShape


def check_wiring(shape: EncoderShape) -> None:
    """Raises HwsearchError for a shape that hwsearch.model cannot build."""
    a = shape.architecture
    if a.name != "modernbert":
        raise HwsearchError(
            f"{shape}: architecture: {a.name} cannot be built; accepted: modernbert, with options"
        )
    if shape.key_value_heads != shape.num_attention_heads:
        raise HwsearchError(
            f"{shape}: num_key_value_heads: {shape.key_value_heads}; ModernBERT has one per query head,"
            f" {shape.num_attention_heads}"
        )
