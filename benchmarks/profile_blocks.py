"""Replaces blocks of fitted constants in the shipped profiles, and leaves the rest of each file alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray

from hwsearch import files
from hwsearch.gpu.profile_text import plain

__all__ = ["by_dtype", "equal_weight", "interval", "plain", "replace_blocks", "replace_gemm"]

Vector = NDArray[np.float64]
ROWS_OF_EACH = 2000


class Interval(TypedDict):
    """Two attributes of Evidence."""

    low_factor: float
    high_factor: float


def interval(ratio: Vector) -> Interval:
    """Factors that hold 90 % of measured / predicted, from predicted / measured of held-out rows."""
    low, high = np.quantile(1 / ratio, (0.05, 0.95))
    return {"low_factor": min(float(low), 1.0), "high_factor": max(float(high), 1.0)}


def equal_weight(ratio: Vector) -> Vector:
    """Quantiles of one table, so that tables of any size count alike when they are put together."""
    return np.asarray(np.quantile(ratio, np.linspace(0, 1, ROWS_OF_EACH)))


def replace_blocks(name: str, blocks: dict[str, Any]) -> None:
    """Put `blocks` ("attention", "stream", "kind") into the calibration of the profile `name`."""
    path = files.data_folder("profiles") / f"{name}.yaml"
    text = files.read_text(path)
    facts, _, _ = text.partition("\ncalibration:")
    calibration = {**yaml.safe_load(text)["calibration"], **blocks}
    section = yaml.dump({"calibration": calibration}, Dumper=_NoAliases, sort_keys=False, width=110)
    files.write_whole(path, f"{facts}\n{section}")


def by_dtype(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks by dtype; `fp16: bf16` where both hold the same numbers."""
    blocks: dict[str, Any] = {dtype: plain(c) for dtype, c in constants.items()}
    same = "bf16" in blocks and _numbers(blocks["bf16"]) == _numbers(blocks["fp16"])
    return {**blocks, "fp16": "bf16"} if same else blocks


def _numbers(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "evidence"}


def replace_gemm(name: str, blocks: dict[str, Any]) -> None:
    """The same for some dtypes of the products."""
    path = files.data_folder("profiles") / f"{name}.yaml"
    gemm = yaml.safe_load(files.read_text(path))["calibration"]["gemm"]
    replace_blocks(name, {"gemm": {**gemm, **blocks}})


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
