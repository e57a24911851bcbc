"""What pyproject.toml ships is what the tree holds."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_and_data_folder_is_listed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "hwsearch").rglob("__init__.py")
    }
    found |= {
        ".".join(["hwsearch.kernels", *path.parent.relative_to(ROOT / "kernels/src").parts])
        for path in (ROOT / "kernels/src").rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == found | {"hwsearch.spaces", "hwsearch.profiles", "hwsearch.recipes"}
    for package, folder in setuptools["package-dir"].items():
        assert (ROOT / folder).is_dir(), package
    # A package called `kernels` at the root would shadow the PyPI distribution that transformers imports.
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_kernels_package_is_installed_from_its_folder() -> None:
    pytest.importorskip("torch")
    import hwsearch.kernels

    assert hwsearch.kernels.varlen_attention.__doc__


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["train"],
    ]
    names = {name.split(">")[0].split("[")[0].strip().lower() for name in asked}
    assert names - {"hwsearch"} <= pinned
