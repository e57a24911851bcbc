"""Encoder shapes: what a candidate is, how many parameters and FLOPs it has. No torch."""

from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.shape.flops import Flops, count_flops
from hwsearch.shape.notation import parse_shape
from hwsearch.shape.presets import PRESETS

__all__ = ["PRESETS", "EncoderShape", "Flops", "count_flops", "parse_shape"]
