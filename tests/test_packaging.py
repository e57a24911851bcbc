"""What pyproject.toml ships is what the tree holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tuned_rows import row, write

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


def test_a_wheel_brings_the_tuned_tables(tmp_path: Path) -> None:
    """Built as a wheel is, from a copy of the tree and one table more; read from where pip would put it."""
    pytest.importorskip("setuptools", minversion="77")
    for folder in ("hwsearch", "kernels", "spaces", "profiles", "recipes"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
        )
    (tmp_path / "hwsearch" / "kernels").unlink(missing_ok=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    table = write(tmp_path / "profiles" / "tuned", "v100", row())
    assert table.with_name(".lock").exists()
    code = "import setuptools; setuptools.setup()"
    built = tmp_path / "built"
    command = [sys.executable, "-c", code, "build_py", "--build-lib", str(built)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = built / "hwsearch" / "profiles" / "tuned"
    tables = {path.relative_to(ROOT / "profiles" / "tuned") for path in ROOT.glob("profiles/tuned/*/*.json")}
    expected = tables | {Path("v100/attention_forward.json")}
    assert {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()} == expected
    look_up = (
        "from hwsearch.kernels.tuned import Key, tuned_for\n"
        "found = tuned_for('attention_forward', 'v100', (7, 0), Key('bf16', 64, 'global', 512))\n"
        "print(found.state, found.path)"
    )
    environment = {**os.environ, "PYTHONPATH": str(built), "HWSEARCH_CACHE": str(tmp_path / "none")}
    asked = subprocess.run(
        [sys.executable, "-c", look_up], cwd=built, env=environment, capture_output=True, text=True
    )
    assert asked.stdout.strip() == f"exact {shipped / 'v100' / 'attention_forward.json'}", asked.stderr


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
