"""Space files: every mistake is named with its file, line or key, and what is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.files import data_folder
from hwsearch.space.search_space import load_space
from tests.conftest import SMALL_SPACE


def broken(folder: Path, old: str, new: str) -> Path:
    assert old in SMALL_SPACE
    path = folder / "small.yaml"
    path.write_text(SMALL_SPACE.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "hidden_size:",
            "hidden_sizes:",
            r"small\.yaml:3: shape\.hidden_sizes: unknown key; accepted: .*hidden_size",
        ),
        ("hidden_size:", "hidden_sizes:", r"small\.yaml:1: shape\.hidden_size: is missing"),
        ("basket:", "baskets:", r"small\.yaml:11: baskets: unknown key; accepted: shape, budget, basket"),
        (
            "max: 4M",
            "max: lots",
            r"small\.yaml:10: budget\.max: found 'lots'; accepted: a positive integer or",
        ),
        ("max: 4M", "max: 500K", r"small\.yaml:10: budget: the range 1,000,000\.\.500,000 is empty"),
        (
            "min: 2, max: 9",
            "min: 9, max: 2",
            r"small\.yaml:2: shape\.num_hidden_layers: the range 9\.\.2 is empty",
        ),
        ("min: 2, max: 9", "min: two, max: 9", r"small\.yaml:2: .*found 'two'; accepted: an integer, a list"),
        ("[32, 64]", "[]", r"small\.yaml:4: shape\.head_size: the list is empty"),
        ("[32, 64]", "[32, 64.5]", r"small\.yaml:4: shape\.head_size: found 64\.5; accepted: an integer"),
        ("[32, 64]", "[32, -64]", r"small\.yaml:4: .*found -64; accepted: integers from 1"),
        ("step: 64}\n  head", "stride: 64}\n  head", r"small\.yaml:3: .*unknown key 'stride' in a range"),
        ("[64, 128]", "[64, 127]", r"small\.yaml:1: shape: local_attention: 127 is odd"),
        ("t4: 2.0", "t5: 2.0", r"small\.yaml:11: basket\.t5: .*'t5'.*t4"),
        ("t4: 2.0", "t4: much", r"small\.yaml:11: basket\.t4: found 'much'"),
        ("t4: 2.0", "t4: -1", r"small\.yaml:11: basket\.t4: found -1"),
        ("{t4: 2.0, l4: 1.0}", "{}", r"small\.yaml:11: basket: "),
        (
            "fixed:128x32",
            "fixed:128",
            r"small\.yaml:13: workloads\.0\.lengths: workload fixed:128: not understood",
        ),
        ("weight: 0.5", "weight: none", r"small\.yaml:14: workloads\.1\.weight: found 'none'"),
        (
            "quality_prior: {weight: 1.0}",
            "accuracy: {weight: 1.0}",
            r":17: objectives\.accuracy: unknown key; acc",
        ),
        ("latency: {weight: 1.0}", "latency: {weight: .nan}", r":16: objectives\.latency\.weight: found nan"),
        ("latency: {weight: 1.0}", "latency: {over: all}", r":16: objectives\.latency\.over: found 'all'"),
        ("reference: L4", "reference: X4", r"small\.yaml:18: reference: X4.*no such shape"),
        ("reference:", "runtime: warp\nreference:", r"small\.yaml:18: runtime: found 'warp'.*eager"),
        ("reference:", "constraints: {wave_utilisation: true}\nreference:", r"constraints\.wave_utilisation"),
        (
            "reference:",
            "limits: {latency_ms: {t4: slow}}\nreference:",
            r":18: limits\.latency_ms\.t4: found 'slow'",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(HwsearchError, match=said):
        load_space(str(broken(tmp_path, old, new)))


@pytest.mark.parametrize("text", ["7", "- a", "just words"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(HwsearchError, match="a space is a mapping"):
        load_space(str(path))


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPACE.replace("[32, 64]", "[]").replace("max: 4M", "max: lots"))
    with pytest.raises(HwsearchError) as told:
        load_space(str(path))
    assert len(str(told.value).splitlines()) == 2


def test_shipped_spaces_load_by_name_and_by_path() -> None:
    for path in sorted(data_folder("spaces").glob("*.yaml")):
        assert load_space(path.stem).description() == load_space(str(path)).description()
    with pytest.raises(HwsearchError, match="no such space; accepted: a YAML file, or one of base, large"):
        load_space("huge")


def test_another_basket(small_space: Path) -> None:
    space = load_space(str(small_space)).with_gpus(["l4", "h100-sxm"])
    assert [gpu.name for gpu in space.gpus] == ["l4", "h100-sxm"] and space.weights == (1.0, 1.0)
    refused = {"l5": "l5", "l4,l4": "twice", "cpu": "cpu is measured anew", "": "''"}
    for names, said in [([], "no GPU"), *((text.split(","), said) for text, said in refused.items())]:
        with pytest.raises(HwsearchError, match=said):
            space.with_gpus(names)
