"""Initial weights: Megatron's scheme, as FlexBERT's `full_megatron` draws them for ModernBERT."""

from __future__ import annotations

import math

import torch
from torch import nn

from hwsearch.shape import EncoderShape

STD = 0.02
CUTOFF = 2.0  # standard deviations


@torch.no_grad()
def initialise(model: nn.Module, shape: EncoderShape) -> None:
    """Draw every weight anew, from torch's global generator.

    Matrices and embeddings are normal with `weight_std`, cut at 2 standard deviations; norms are one,
    biases zero.
    """
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            std = weight_std(name, shape)
            nn.init.trunc_normal_(weight, std=std, a=-CUTOFF * std, b=CUTOFF * std)
        elif name.endswith(".bias"):
            nn.init.zeros_(weight)
        else:
            nn.init.ones_(weight)


def weight_std(name: str, shape: EncoderShape) -> float:
    """Of the matrix `name` before it is cut: 0.02; 0.02 / sqrt(2 L) where it writes to the residual stream;
    h^-0.5 for a decoder of its own.

    transformers draws head.dense from the narrower of the first two instead.
    """
    if name.endswith("Wo.weight"):
        return STD / math.sqrt(2 * shape.num_hidden_layers)
    return float(shape.hidden_size**-0.5) if name == "decoder.weight" else STD
