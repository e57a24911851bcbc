from __future__ import annotations

import math

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.shape import parse_shape
from hwsearch.training import find_recipe, read_recipe, recipe_of, short_recipe

GOOD = """\
phases:
  - name: only
    tokens: 1M
    sequence_length: 64
    tokens_per_step: 4096
    tokens_per_row: 2048
    learning_rate: 1.0e-3
    batch_warmup: {from_tokens_per_step: 2048, tokens: 8192}
"""


def read(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return read_recipe(tmp_path / "recipe.yaml")


def test_a_recipe_survives_being_written(tmp_path):
    recipe = read(tmp_path, GOOD)
    assert recipe_of(recipe.model_dump(mode="json")) == recipe
    assert recipe.phases[0].tokens == 1_000_000


def test_shipped_recipes_are_found_by_name():
    assert find_recipe("modernbert").name == "modernbert.yaml"
    with pytest.raises(HwsearchError, match=r"no such recipe; accepted: a YAML file, or one of modernbert"):
        find_recipe("modernberd")


@pytest.mark.parametrize(
    ("found", "instead", "words"),
    [
        ("tokens: 1M", "tokens: lots", r"recipe.yaml:3: phases.0.tokens: found 'lots'"),
        ("    learning_rate: 1.0e-3\n", "", r"recipe.yaml:2: phases.0.learning_rate: is missing"),
        ("1.0e-3", "1e-3", r"recipe.yaml:7: .*YAML writes such a number as in 1.0e-3"),
        ("1.0e-3", "-1.0", r"recipe.yaml:7: phases.0.learning_rate: found -1.0; .*greater than 0"),
        ("name: only", "nam: only", r"unknown key; accepted: name, tokens,"),
        ("tokens_per_row: 2048", "tokens_per_row: 32", r"tokens_per_row: 32 is less than a sequence, 64"),
        ("tokens_per_step: 4096", "tokens_per_step: 1024", r"is less than a row, 2048"),
        ("from_tokens_per_step: 2048", "from_tokens_per_step: 4096", r"4096 is not below tokens_per_step"),
        ("sequence_length: 64", "sequence_length: 2", r"phases.0.sequence_length: found 2"),
        ("    learning", "    warmup_tokens: 2M\n    learning", r"exceed the phase's tokens, 1000000"),
        ("phases:", "scale: 0.0\nphases:", r"recipe.yaml:1: scale: found 0.0"),
        ("phases:", "phase: 1\nphases:", r"recipe.yaml:1: phase: unknown key; accepted: scale,"),
    ],
)
def test_mistakes_are_named_with_their_line(found, instead, words, tmp_path):
    assert found in GOOD
    with pytest.raises(HwsearchError, match=words):
        read(tmp_path, GOOD.replace(found, instead, 1))


@pytest.mark.parametrize("text", ["- 1", "phases: []", "phases: {}", "phases: [3]", "phases:"])
def test_no_phases(text, tmp_path):
    with pytest.raises(HwsearchError, match=r"recipe\.yaml"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 10**15),
        ("sequence_length", 2),
        ("tokens_per_step", 100),
        ("tokens_per_step", -1),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_bad_options_are_named(name, value):
    with pytest.raises(HwsearchError, match=name):
        short_recipe(**{name: value})


def test_sequences_must_fit_the_positions():
    with pytest.raises(HwsearchError, match=r"training: sequence_length: 256 .* 128"):
        short_recipe().check_fits(parse_shape("L2-h64-a1-i64-p128"))
