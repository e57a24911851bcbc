"""Two runs share a folder and a study only where all that decides the numbers is equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwsearch.errors import HwsearchError
from hwsearch.files import data_folder
from hwsearch.search.identity import identity
from hwsearch.search.run import run
from hwsearch.space.search_space import load_space
from tests.conftest import SMALL_SPACE


def test_comments_and_the_count_of_winners_do_not_matter(small_space: Path) -> None:
    first = identity(load_space(str(small_space)))
    small_space.write_text(SMALL_SPACE + "winners: 2  # a comment\n")
    assert identity(load_space(str(small_space))) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max: 4M", "max: 5M"),
        ("t4: 2.0", "t4: 2.5"),
        ("weight: 0.5", "weight: 0.4"),
        ("reference: L4", "reference: bert:L4"),
        ("reference:", "runtime: compile\nreference:"),
    ],
)
def test_the_content_of_the_space_does(small_space: Path, old: str, new: str) -> None:
    first = identity(load_space(str(small_space)))
    small_space.write_text(SMALL_SPACE.replace(old, new))
    assert identity(load_space(str(small_space))) != first


def test_a_gpus_constants_do(small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identity(load_space(str(small_space)))
    own = tmp_path / "profiles"
    own.mkdir()
    profile = yaml.safe_load((data_folder("profiles") / "t4.yaml").read_text())
    profile["calibration"]["stream"]["floor_us"] *= 1.5
    (own / "t4.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("HWSEARCH_PROFILES", str(own))
    assert identity(load_space(str(small_space))) != first


def test_the_lengths_behind_a_workload_file_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies beside the space, wherever the command is run; a rewritten one is another run."""
    folder = tmp_path / "spaces"
    folder.mkdir()
    (folder / "lengths.txt").write_text("128\n64\n")
    path = folder / "small.yaml"
    path.write_text(SMALL_SPACE.replace("fixed:128x32", "lengths.txt"))
    monkeypatch.chdir(tmp_path)
    run(load_space(str(path)), out=tmp_path / "run", trials=3)
    (folder / "lengths.txt").write_text("512\n512\n")
    with pytest.raises(HwsearchError, match="lengths of a workload"):
        run(load_space(str(path)), out=tmp_path / "run", trials=3)
