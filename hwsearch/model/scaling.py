"""Learning rates that carry over from one shape to another: CompleteP with alpha 1.

CompleteP (Dey et al. 2025, arXiv 2505.01618, Table 1 and equation 40) multiplies every residual branch by
1 / m_L and the logits by 1 / m_N, where m_L and m_N are depth and width over those of a base shape at which
the learning rate was chosen, divides the learning rate of inner matrices by m_N and their first
variance too.

No multiplier is left in the model here. Under Adam a weight w behind a multiplier c moves as c w does that
starts c times as large, with c times the learning rate and 1 / c of eps: so Wo takes the branch's multiplier
and the norm before the decoder that of the logits. What is trained is a plain ModernBERT at every moment: it
saves, loads and exports as any other. Off unless asked for; at the base shape every factor is 1.

Two things the paper leaves alone: feed-forwards may be wider or narrower against the width, so a matrix goes
by its own fan-in; and scores stay divided by the root of the head size, so a contest keeps one head size.
Weight decay that is multiplied with the learning rate (torch's AdamW) is to be divided by
`learning_rate`, so that their product stays; a fully decoupled one (StableAdamW) stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hwsearch.errors import HwsearchError
from hwsearch.model.weights import stored_sizes
from hwsearch.shape import EncoderShape


@dataclass(frozen=True)
class Scale:
    """Factors of one parameter against the base shape.

    Attributes:
        initial: on what `hwsearch.model.initialisation` draws.
        learning_rate: on the recipe's learning rate.
        eps: on the optimizer's eps.
    """

    initial: float = 1.0
    learning_rate: float = 1.0
    eps: float = 1.0


def parameter_scales(shape: EncoderShape, base: EncoderShape) -> dict[str, Scale]:
    """Factors of every parameter of `shape`, by name, for a learning rate that suits `base`.

    Raises HwsearchError for post-norm shapes, which CompleteP does not cover.
    """
    if shape.architecture.post_norm:
        raise HwsearchError(f"{shape}: norm_order: post has no learning rates that carry over; accepted: pre")
    return {name: _scale(name, shape, base) for name in stored_sizes(shape)}


@torch.no_grad()
def scale_initial_weights(model: nn.Module, scales: dict[str, Scale]) -> None:
    """Multiply freshly drawn weights by their `initial`, in place."""
    for name, weight in model.named_parameters():
        if scales[name].initial != 1.0:
            weight.mul_(scales[name].initial)


def _scale(name: str, shape: EncoderShape, base: EncoderShape) -> Scale:
    depth = shape.num_hidden_layers / base.num_hidden_layers
    width = shape.hidden_size / base.hidden_size
    inner = shape.intermediate_size / base.intermediate_size
    fan_in = inner if ".mlp.Wo." in name else width
    is_weight, in_layer = name.endswith(".weight"), ".layers." in name
    if in_layer and ".Wo." in name:
        # Behind 1 / depth. Megatron's own 1 / sqrt(2 L) stays the base shape's.
        initial = (depth * fan_in) ** -0.5
        return (
            Scale(initial, 1 / (depth * fan_in), 1 / width) if is_weight else Scale(1, 1 / depth, 1 / width)
        )
    if in_layer:
        eps = 1 / (width * depth)
        is_matrix = is_weight and ("Wqkv" in name or "Wi" in name)
        return Scale(fan_in**-0.5, 1 / fan_in, eps) if is_matrix else Scale(1, 1, eps)
    if name == "head.dense.weight":
        return Scale(width**-0.5, 1 / width, 1 / width)
    if name.startswith("head.norm."):  # behind 1 / width
        return Scale(1 / width, 1 / width, 1)
    if name == "decoder.weight":  # drawn with h^-0.5, where the base's is meant
        return Scale(width**0.5, 1, 1 / width)
    return Scale(1, 1, 1 / width)
