"""Replaces blocks of fitted constants in the shipped profiles, and leaves the rest of each file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from hwsearch import files
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import Gpu
from hwsearch.gpu.profile_text import plain, with_section


def shipped_gpus() -> Iterator[Gpu]:
    """Every GPU with a profile in the repository, whatever $HWSEARCH_PROFILES says."""
    folder = files.data_folder("profiles")
    return (load_gpu(name, folder) for name in gpu_names(folder))


def replace_blocks(name: str, blocks: dict[str, Any]) -> None:
    """Put `blocks` ("gemm", "attention", "stream", "kind") into the calibration of the profile `name`."""
    path = files.data_folder("profiles") / f"{name}.yaml"
    text = files.read_text(path)
    files.write_whole(path, with_section(text, {**yaml.safe_load(text)["calibration"], **blocks}))


def replace_gemm(name: str, blocks: dict[str, Any]) -> None:
    """The same for some dtypes of the products."""
    path = files.data_folder("profiles") / f"{name}.yaml"
    gemm = yaml.safe_load(files.read_text(path))["calibration"]["gemm"]
    replace_blocks(name, {"gemm": {**gemm, **blocks}})


def by_dtype(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks by dtype; `fp16: bf16` where both hold the same numbers."""
    blocks: dict[str, Any] = {dtype: plain(c) for dtype, c in constants.items()}
    same = "bf16" in blocks and _numbers(blocks["bf16"]) == _numbers(blocks["fp16"])
    return {**blocks, "fp16": "bf16"} if same else blocks


def _numbers(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "evidence"}


def write_kinds() -> None:
    """Say in one word what each profile's default dtype rests on."""
    for gpu in shipped_gpus():
        dtype, c = gpu.default_dtype, gpu.calibration
        kinds = [block.evidence.kind for block in (c.gemm[dtype], c.attention[dtype], c.stream)]
        fitted = kinds.count("fitted")
        kind = ("transferred", "partly fitted", "partly fitted", "fitted")[fitted]
        replace_blocks(gpu.name, {"kind": kind})
