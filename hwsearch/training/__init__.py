"""Masked-LM training of one shape on real text."""

from hwsearch.training.loop import TrainingResult, train
from hwsearch.training.recipe import Recipe

__all__ = ["Recipe", "TrainingResult", "train"]
