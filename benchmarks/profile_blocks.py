"""Replaces blocks of fitted constants in the shipped profiles, and leaves the rest of each file alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import yaml

from hwsearch import files
from hwsearch.gpu.profile_file import constant_key


def plain(constants: Any) -> dict[str, Any]:
    """One block of constants as it stands in a profile: units of the file, four digits, evidence last."""
    values: dict[str, Any] = {}
    for field in fields(constants):
        if field.name == "evidence":
            continue
        key, factor = constant_key(field.name)
        value = getattr(constants, field.name)
        values[key] = value if isinstance(value, int | str) else float(f"{value / factor:.4g}")
    evidence = {k: v for k, v in asdict(constants.evidence).items() if v not in (None, (), "")}
    for key in ("own_error_percent", "transfer_error_percent"):
        if key in evidence:
            evidence[key] = round(evidence[key], 1)
    if "from_gpus" in evidence:
        evidence["from_gpus"] = list(evidence["from_gpus"])
    return {**values, "evidence": evidence}


def by_dtype(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks by dtype; `fp16: bf16` where both hold the same numbers."""
    blocks = {dtype: plain(c) for dtype, c in constants.items()}
    same = "bf16" in blocks and _numbers(blocks["bf16"]) == _numbers(blocks["fp16"])
    return {**blocks, "fp16": "bf16"} if same else blocks


def _numbers(block: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in block.items() if key != "evidence"}


def replace_blocks(name: str, blocks: dict[str, Any]) -> None:
    """Put `blocks` ("attention", "stream") into the calibration of the profile `name`."""
    path = files.data_folder("profiles") / f"{name}.yaml"
    facts, _, _ = files.read_text(path).partition("\ncalibration:")
    calibration = {**yaml.safe_load(files.read_text(path))["calibration"], **blocks}
    text = yaml.safe_dump({"calibration": calibration}, sort_keys=False, width=110, allow_unicode=True)
    files.write_whole(path, f"{facts}\n{text}")
