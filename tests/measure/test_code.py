"""What counts as the code that is timed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hwsearch.measure import code
from hwsearch.measure.code import timed_code


def test_a_change_in_any_of_its_packages_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in code.PACKAGES:
        (tmp_path / package / "deeper").mkdir(parents=True)
        (tmp_path / package / "deeper" / "part.py").write_text("one = 1\n")
    monkeypatch.setattr(
        code, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])
    )
    found = [timed_code()]
    for package in code.PACKAGES:
        (tmp_path / package / "deeper" / "part.py").write_text("two = 2\n")
        found.append(timed_code())
    assert len(set(found)) == 1 + len(code.PACKAGES) == 5
    (tmp_path / code.PACKAGES[0] / "notes.txt").write_text("of no matter")
    assert timed_code() == found[-1]


def test_all_of_its_packages_are_found() -> None:
    assert all(code.find_spec(package) is not None for package in code.PACKAGES)
    assert len(timed_code()) == 12
