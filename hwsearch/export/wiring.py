"""What both ModernBERT formats cannot express."""

from __future__ import annotations

from hwsearch.errors import HwsearchError
from hwsearch.shape import EncoderShape


def check_modernbert(shape: EncoderShape, export_format: str) -> None:
    """Raises HwsearchError for other architectures and for grouped key/value heads."""
    if shape.architecture.name != "modernbert":
        raise HwsearchError(
            f"{shape}: architecture: {shape.architecture.name} has no {export_format} export;"
            " accepted: modernbert (any architecture exports as yaml)"
        )
    if shape.key_value_heads != shape.num_attention_heads:
        raise HwsearchError(
            f"{shape}: num_key_value_heads: {shape.key_value_heads}; {export_format} knows ModernBERT only"
            f" with one per query head, {shape.num_attention_heads} (any number exports as yaml)"
        )
