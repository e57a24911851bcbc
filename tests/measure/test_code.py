"""What counts as the code that is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwsearch.measure import code
from hwsearch.measure.code import timed_code


def test_a_change_in_any_of_its_packages_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        tmp_path / package / "deeper" / files.replace("*", "part.py")
        for package, files in code.PACKAGES.items()
    ]
    for part in parts:
        part.parent.mkdir(parents=True)
        part.write_text("one = 1\n")
    monkeypatch.setattr(
        code, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])
    )
    found = [timed_code()]
    for part in parts:
        part.write_text("two = 2\n")
        found.append(timed_code())
    assert len(set(found)) == 1 + len(parts) == 6
    parts[0].with_name("notes.txt").write_text("of no matter")
    parts[-1].with_name("corpus.py").write_text("how text comes to training")
    assert timed_code() == found[-1]


def test_all_of_its_files_are_found_and_nothing_is_imported_for_that() -> None:
    for package, files in code.PACKAGES.items():
        spec = code.find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        assert any(
            found.suffix in code.SOURCES for found in Path(spec.submodule_search_locations[0]).rglob(files)
        )
    asked = "import sys; from hwsearch.measure.code import timed_code; print(timed_code())"
    asked += "; assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said.strip() == timed_code()
