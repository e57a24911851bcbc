"""The encoder as a torch module."""

from hwsearch.model.encoder import MaskedLanguageModel
from hwsearch.model.tiling import tile_from
from hwsearch.model.weights import load_weights, read_checkpoint, save_weights

__all__ = ["MaskedLanguageModel", "load_weights", "read_checkpoint", "save_weights", "tile_from"]
