"""A GPU as the cost model sees it, and the profiles that ship with hwsearch."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from hwsearch import files
from hwsearch.errors import HwsearchError
from hwsearch.gpu.calibration import Calibration

DTYPES = ("bf16", "fp16", "tf32", "fp32")
BYTES_PER_ELEMENT = {"bf16": 2, "fp16": 2, "tf32": 4, "fp32": 4}
CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """Datasheet facts in base units (Hz, bytes, FLOP/s with a multiply-add as 2), and fitted constants.

    `dense_flops_per_s` holds the dense rate with fp32 accumulation for each dtype that the GPU has
    (P100's fp16 accumulates in fp16); `sources` says for every fact where it was read.
    """

    name: str
    product: str
    nvml_names: tuple[str, ...]
    architecture: str
    compute_capability: tuple[int, int]
    sms: int
    boost_hz: float
    dense_flops_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    memory_bytes: int
    l2_bytes: int
    tdp_w: float
    shared_memory_per_sm_bytes: int
    shared_memory_per_block_bytes: int
    registers_per_sm: int
    threads_per_sm: int
    blocks_per_sm: int
    sources: dict[str, str] = field(repr=False)
    calibration: Calibration = field(repr=False)

    @property
    def default_dtype(self) -> str:
        """bf16 where the tensor cores take it, else fp16; fp32 on a CPU."""
        return next(dtype for dtype in ("bf16", "fp16", "fp32") if dtype in self.dense_flops_per_s)

    def check_dtype(self, dtype: str) -> None:
        """Raise HwsearchError unless this GPU multiplies matrices of `dtype`."""
        if dtype not in self.dense_flops_per_s:
            raise HwsearchError(f"{self.name} has no {dtype}; it has {', '.join(self.dense_flops_per_s)}")


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

    `cpu` is measured on this machine, which takes about a second the first time.

    Raises HwsearchError for an unknown name and for a profile with a mistake, with file and line.
    """
    if name == CPU and folder is None:
        from hwsearch.gpu.cpu import measure_cpu

        return measure_cpu()
    paths = _profile_paths(folder)
    if name not in paths:
        raise HwsearchError(_unknown(name, sorted(paths)))
    from hwsearch.gpu.profile_file import read_profile

    return read_profile(paths[name])


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
