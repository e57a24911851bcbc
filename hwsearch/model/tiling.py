"""Initial weights tiled from a smaller checkpoint, as ModernBERT-large began from base.

Centred with wrap-around in every dimension (FlexBERT's `tile_weights_from_middle`):

    new[i, j] = old[(i - (H - h) // 2) mod h, (j - (W - w) // 2) mod w]

Q, K and V are tiled apart, and so are the two halves of a gated feed-forward; layer i comes from layer
round(i * l / L) (Gopher's, halves to even), whether that one attends globally or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hwsearch.errors import HwsearchError
from hwsearch.model.encoder import MaskedLanguageModel
from hwsearch.model.weights import check_tensors, fill, read_checkpoint, stored_sizes
from hwsearch.shape import EncoderShape
from hwsearch.shape.architecture import GLOBAL_THETA, LOCAL_THETA, Architecture

LAYER = re.compile(r"model\.layers\.(\d+)\.")


def tile_from(model: MaskedLanguageModel, folder: Path) -> None:
    """Fill `model` from the smaller model in `folder`, one of ours or ModernBERT's from transformers.

    Heads keep to themselves where (H - h) / 2 is a multiple of the head size, as from 768 to 1024.

    Raises HwsearchError for a folder without a shape or weights, and for a model that is wired otherwise or
    larger in any size.
    """
    shape, tensors = read_checkpoint(folder)
    fill(model, tiled_weights(tensors, shape, model.shape, str(folder)), str(folder))


def tiled_weights(
    tensors: Mapping[str, Tensor], small: EncoderShape, large: EncoderShape, source: str
) -> dict[str, Tensor]:
    """Weights of `large` by name, made of those of `small`; norms that `small` lacks are one, biases zero.

    Raises HwsearchError, which begins with `source`, where the shapes do not allow it.
    """
    _check_sizes(small, large, source)
    check_tensors(tensors, small, source)
    layers = layer_map(small.num_hidden_layers, large.num_hidden_layers)
    tiled = {}
    for name, size in stored_sizes(large).items():
        origin = LAYER.sub(lambda match: f"model.layers.{layers[int(match[1])]}.", name)
        if origin in tensors:
            tiled[name] = _tile_parts(tensors[origin], size, _parts(name, size, large))
        else:  # the norm that the first layer of `small` does not have
            tiled[name] = torch.zeros(size) if name.endswith(".bias") else torch.ones(size)
    return tiled


def layer_map(small: int, large: int) -> list[int]:
    """The layer of `small` from which each of `large` layers is taken."""
    # From twice the depth on the last one would round up to a layer that is not there.
    return [min(round(layer * small / large), small - 1) for layer in range(large)]


def tile(old: Tensor, size: torch.Size) -> Tensor:
    """`old` repeated to `size` in every dimension, itself in the middle."""
    for dimension, (length, wanted) in enumerate(zip(old.shape, size, strict=True)):
        place = (torch.arange(wanted) - (wanted - length) // 2) % length
        old = old.index_select(dimension, place)
    return old


def _parts(name: str, size: torch.Size, shape: EncoderShape) -> int:
    """Matrices that stand one above the other in the one that bears `name`."""
    if ".Wqkv." in name:
        return 3
    return size[0] // shape.intermediate_size if ".mlp.Wi." in name else 1


def _tile_parts(old: Tensor, size: torch.Size, parts: int) -> Tensor:
    rows = size[0] // parts
    return torch.cat([tile(part, torch.Size((rows, *size[1:]))) for part in old.chunk(parts)])


def _check_sizes(small: EncoderShape, large: EncoderShape, source: str) -> None:
    if _wiring(small) != _wiring(large):
        raise HwsearchError(f"{source}: {small} is wired otherwise than {large}; accepted: the same options")
    if small.architecture.initial_plain_layers:
        raise HwsearchError(f"{source}: initial_plain_layers: layers of two kinds cannot be tiled")
    equal = ["vocab_size", "head_size"]
    if large.architecture.position == "learned":
        equal.append("max_position_embeddings")
    for name in equal:
        if getattr(small, name) != getattr(large, name):
            raise HwsearchError(
                f"{source}: {name}: found {getattr(small, name)}; accepted: {getattr(large, name)},"
                f" that of {large}"
            )
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size"):
        if getattr(small, name) > getattr(large, name):
            raise HwsearchError(
                f"{source}: {name}: found {getattr(small, name)}; accepted: up to {getattr(large, name)},"
                f" that of {large}"
            )


def _wiring(shape: EncoderShape) -> Architecture:
    """What must be equal: not the rotation's bases, which training changes."""
    return replace(shape.architecture, global_rope_theta=GLOBAL_THETA, local_rope_theta=LOCAL_THETA)
