"""The profiles that ship with hwsearch or that the user adds, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from hwsearch import files
from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.gpu.profile_file import read_profile


def profile_folders() -> tuple[Path, ...]:
    """Where profiles are looked for, first match wins: $HWSEARCH_PROFILES, then those shipped."""
    own = os.environ.get("HWSEARCH_PROFILES")
    shipped = files.data_folder("profiles")
    return (Path(own), shipped) if own else (shipped,)


def gpu_names(folder: Path | None = None) -> tuple[str, ...]:
    """Names of all GPUs that have a profile, sorted; `cpu` is accepted by `load_gpu` as well."""
    return tuple(sorted(_profile_paths(folder)))


def load_gpu(name: str, folder: Path | None = None) -> Gpu:
    """The GPU called `name`, from `folder` if given, else from `profile_folders()`.

    `cpu` is measured on this machine, which takes a second or two the first time.

    Raises HwsearchError for an unknown name and for a profile with a mistake, with file and line.
    """
    if name == CPU and folder is None:
        # imports numpy, which `hwsearch gpus` does without
        from hwsearch.gpu.cpu import measure_cpu

        return measure_cpu()
    return read_profile(profile_path(name, folder))


def profile_path(name: str, folder: Path | None = None) -> Path:
    """The file behind `load_gpu`; HwsearchError for an unknown name."""
    paths = _profile_paths(folder)
    if name not in paths:
        raise HwsearchError(_unknown(name, sorted(paths)))
    return paths[name]


def _profile_paths(folder: Path | None) -> dict[str, Path]:
    folders = (folder,) if folder is not None else profile_folders()
    paths: dict[str, Path] = {}
    for each in folders:
        if not each.is_dir():
            hint = " (from $HWSEARCH_PROFILES)" if folder is None else ""
            raise HwsearchError(f"{each}: no such folder of GPU profiles{hint}")
        for path in each.glob("*.yaml"):
            paths.setdefault(path.stem, path)
    return paths


def _unknown(name: str, names: list[str]) -> str:
    plain = name.lower().replace("_", "-").replace(" ", "-")
    close = difflib.get_close_matches(plain, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"no GPU profile is called {name!r}; {hint}accepted: {', '.join([*names, CPU])}"
