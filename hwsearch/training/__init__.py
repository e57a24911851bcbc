"""Masked-LM training of one shape on real text."""

from hwsearch.training.recipe import Recipe, find_recipe, read_recipe, recipe_of, short_recipe
from hwsearch.training.run import TrainingResult, train

__all__ = ["Recipe", "TrainingResult", "find_recipe", "read_recipe", "recipe_of", "short_recipe", "train"]
