"""Weights in safetensors, under the names that transformers' ModernBertForMaskedLM reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hwsearch.errors import HwsearchError
from hwsearch.files import write_whole
from hwsearch.model.encoder import MaskedLanguageModel
from hwsearch.shape import EncoderShape
from hwsearch.shape.hf_config import read_hf_config
from hwsearch.shape.notation import read_folder

DECODER = "decoder.weight"


def save_weights(model: MaskedLanguageModel, path: Path) -> None:
    """Write `path` whole; tensors keep their dtype."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in stored_state(model).items()}
    write_whole(path, save(tensors, metadata={"format": "pt"}))


def stored_state(model: MaskedLanguageModel) -> dict[str, torch.Tensor]:
    """The weights by name, once each: a tied decoder is the token embedding, as transformers stores it."""
    tied = model.shape.architecture.tied_decoder
    return {name: t for name, t in model.state_dict().items() if not (tied and name == DECODER)}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises HwsearchError for one that is missing or broken."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise HwsearchError(f"{path}: not a readable safetensors file: {error}") from error


def read_checkpoint(folder: Path) -> tuple[EncoderShape, dict[str, torch.Tensor]]:
    """Shape and weights of a folder that training or transformers wrote, as they stand there.

    Raises HwsearchError where it holds no config.json or shape.yaml, or no model.safetensors.
    """
    # A winner's shape.yaml may lie beside the config that training wrote with the weights.
    config = folder / "config.json"
    shape = read_hf_config(config) if config.is_file() else read_folder(folder)
    return shape, read_weights(folder / "model.safetensors")


def load_weights(model: MaskedLanguageModel, path: Path) -> None:
    """Fill `model` from a ModernBertForMaskedLM safetensors file.

    Raises HwsearchError for a broken file and for names or sizes that do not fit the shape.
    """
    fill(model, read_weights(path), str(path))


def fill(model: MaskedLanguageModel, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy `tensors` into `model`, every one of its weights. Raises HwsearchError as `check_tensors`."""
    check_tensors(tensors, model.shape, source)
    tied = model.shape.architecture.tied_decoder
    model.load_state_dict({n: t for n, t in tensors.items() if not (tied and n == DECODER)}, strict=False)


def check_tensors(tensors: Mapping[str, torch.Tensor], shape: EncoderShape, source: str) -> None:
    """Raises HwsearchError, which begins with `source`, unless names and sizes are those of `shape`.

    A tied decoder may be there once more.
    """
    expected = stored_sizes(shape)
    also = {DECODER} if shape.architecture.tied_decoder else set()
    for name in sorted(expected.keys() | tensors.keys() - also):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        wanted = tuple(expected[name]) if name in expected else "nothing"
        if found != wanted:
            raise HwsearchError(f"{source}: {name}: found {found}, {shape} has {wanted}")


def stored_sizes(shape: EncoderShape) -> dict[str, torch.Size]:
    """Sizes of `stored_state` of a model of `shape`."""
    with torch.device("meta"):
        return {name: t.shape for name, t in stored_state(MaskedLanguageModel(shape)).items()}
