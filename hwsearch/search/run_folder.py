"""A run's folder: whose it is, who is using it, and the files in it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from hwsearch.errors import HwsearchError
from hwsearch.files import hold, is_temporary, make_folder, read_yaml, write_whole
from hwsearch.gpu.plain import gpu_of_plain
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.notation import read_shape_yaml
from hwsearch.space.search_space import SearchSpace

PACKAGES = ("hwsearch", "optuna", "numpy", "pandas", "moocore", "torch", "triton")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    path: Path

    @property
    def run_yaml(self) -> Path:
        return self.path / "run.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "study.log"

    @property
    def candidates(self) -> Path:
        return self.path / "candidates.parquet"

    @property
    def front(self) -> Path:
        return self.path / "front.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def measurements(self) -> Path:
        return self.path / "measurements.jsonl"

    @property
    def measured_table(self) -> Path:
        return self.path / "measured.csv"

    @property
    def measured_summary(self) -> Path:
        return self.path / "measured.json"

    @property
    def trained(self) -> Path:
        return self.path / "trained"

    @property
    def trained_table(self) -> Path:
        return self.path / "trained.csv"

    @property
    def trained_summary(self) -> Path:
        return self.path / "trained.json"

    def winner(self, name: int | str) -> Path:
        return self.path / "winners" / str(name) / "shape.yaml"

    def measured_winner(self, name: int | str) -> Path:
        return self.path / "measured" / str(name) / "shape.yaml"

    @property
    def trained_winner(self) -> Path:
        return self.trained / "shape.yaml"


def default_path(space: SearchSpace) -> Path:
    return Path("runs") / space.name


def kept_cpu(path: Path) -> Gpu | None:
    """The CPU's profile that the run in this folder was started with; None where it was started without.

    Raises HwsearchError for a run.yaml that cannot be read.
    """
    folder = RunFolder(path)
    if not folder.run_yaml.is_file():
        return None
    found = read_yaml(folder.run_yaml).data
    inputs = found.get("inputs") if isinstance(found, dict) else None
    if not isinstance(inputs, dict) or CPU not in inputs:
        return None
    return gpu_of_plain(inputs[CPU], f"{folder.run_yaml}: inputs: {CPU}")


@contextmanager
def claim(path: Path, inputs: dict[str, Any]) -> Iterator[RunFolder]:
    """Hold a run folder for this process alone, new or of a run with the same inputs.

    Raises HwsearchError where the path cannot be a folder, holds something else, belongs to a run with
    other inputs, or is in use; nothing in it is changed then.
    """
    folder = RunFolder(path)
    if path.is_dir():
        _check_owner(folder, inputs)
    make_folder(path)
    with hold(path / ".lock", f"{path}: another hwsearch run is using this folder"):
        _check_owner(folder, inputs)
        for entry in (*path.iterdir(), *path.glob("winners/*/*"), *path.glob("measured/*/*")):
            if is_temporary(entry):
                entry.unlink()
        if not folder.run_yaml.exists():
            content = {"inputs": inputs, "environment": environment()}
            write_whole(folder.run_yaml, yaml.safe_dump(content, sort_keys=False))
        yield folder


def _check_owner(folder: RunFolder, inputs: dict[str, Any]) -> None:
    if not folder.run_yaml.exists():
        if strangers := [p.name for p in folder.path.iterdir() if p.name != ".lock" and not is_temporary(p)]:
            raise HwsearchError(
                f"{folder.path}: holds {strangers[0]!r} but no run.yaml, so it is not a run's folder;"
                " accepted: a new or empty folder, or one of an earlier run"
            )
        return
    found = read_yaml(folder.run_yaml).data
    earlier = found.get("inputs") if isinstance(found, dict) else None
    if not isinstance(earlier, dict):
        raise HwsearchError(f"{folder.run_yaml}: holds no inputs, so it is not hwsearch's")
    for name, value in inputs.items():
        if earlier.get(name) != value:
            raise HwsearchError(
                f"{folder.path}: belongs to a run with {_difference(name, earlier.get(name), value)}."
                " Take another --out, or remove the folder"
            )


def _difference(name: str, earlier: Any, now: Any) -> str:
    if name == "identity":
        return "other GPU profiles, lengths of a workload, or version of the cost model"
    if isinstance(earlier, dict) and isinstance(now, dict):
        key = next(key for key in {**earlier, **now} if earlier.get(key) != now.get(key))
        cause = ", by other lengths of a workload or tuned tables" if name == "attention" else ""
        return (
            f"another {name}{cause}: {key} was {_short(earlier.get(key))} and is {_short(now.get(key))} now"
        )
    return f"another {name} ({_short(earlier)}; now {_short(now)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def environment() -> dict[str, Any]:
    """What a reader needs to run it again: versions, machine, git revision."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the checkout that this code runs from, with a mark where it was changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def winners_of_run(text: str) -> list[Path]:
    """The winners' files, best first, of the dearest rung that the run has come to: trained, measured,
    predicted. None where `text` is not a run's folder."""
    folder = RunFolder(Path(text))
    if folder.trained_winner.is_file():
        return [folder.trained_winner]
    return _ranked(folder, "measured") or _ranked(folder, "winners")


def _ranked(folder: RunFolder, name: str) -> list[Path]:
    ranked = folder.path.glob(f"{name}/[0-9]*/shape.yaml")
    return sorted(ranked, key=lambda path: (len(path.parent.name), path.parent.name))


def shape_of_run(text: str) -> EncoderShape:
    """A SHAPE as typed, or the first winner of a run's folder, see `winners_of_run`.

    Raises HwsearchError for a run that has no winners yet, and for whatever `parse_shape` refuses.
    """
    folder = RunFolder(Path(text))
    if not folder.run_yaml.is_file():
        return parse_shape(text)
    if not (winners := winners_of_run(text)):
        raise HwsearchError(
            f"{folder.path}: this run has no winners yet; the same `hwsearch run` goes on with it"
        )
    return read_shape_yaml(winners[0])
