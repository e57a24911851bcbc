"""Weights in safetensors, under the names that transformers' ModernBertForMaskedLM reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.model.encoder import MaskedLanguageModel

# The decoder's weight is the token embedding: stored once, as transformers does.
TIED = "decoder.weight"


def save_weights(model: MaskedLanguageModel, path: Path) -> None:
    """Write `path` whole; tensors keep their dtype."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items() if name != TIED}
    write_whole(path, save(tensors, metadata={"format": "pt"}))


def load_weights(model: MaskedLanguageModel, path: Path) -> None:
    """Fill `model` from a ModernBertForMaskedLM safetensors file.

    Raises HwsearchError for a broken file and for names or sizes that do not fit the shape.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise HwsearchError(f"{path}: not a readable safetensors file: {error}") from error
    tensors.pop(TIED, None)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name != TIED}
    for name in sorted(expected.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        wanted = tuple(expected[name]) if name in expected else "nothing"
        if found != wanted:
            raise HwsearchError(f"{path}: {name}: found {found}, {model.shape} has {wanted}")
    model.load_state_dict(tensors, strict=False)
