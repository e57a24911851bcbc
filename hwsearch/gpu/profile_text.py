"""Writes the calibration section of a profile; the facts above it stay as they are."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from hwsearch import files
from hwsearch.gpu.calibration import Calibration
from hwsearch.gpu.profile_file import constant_key

SECTION = "\ncalibration:"
DIGITS = 4


def with_calibration(profile: str, calibration: Calibration) -> str:
    """The text of a profile with another calibration."""
    return with_section(profile, _plain(calibration))


def with_section(profile: str, calibration: dict[str, Any]) -> str:
    """The same for a calibration as it stands in the file."""
    facts, _, _ = profile.partition(SECTION)
    block = yaml.safe_dump({"calibration": calibration}, sort_keys=False, width=110, allow_unicode=True)
    return f"{facts}\n{block}"


def write_calibration(source: Path, target: Path, calibration: Calibration) -> None:
    """`source`'s facts with `calibration`, written whole to `target`, which may be the same file."""
    files.write_whole(target, with_calibration(files.read_text(source), calibration))


def _plain(calibration: Calibration) -> dict[str, Any]:
    return {
        "kind": calibration.kind,
        "gemm": _by_dtype(calibration.gemm),
        "attention": _by_dtype(calibration.attention),
        "stream": plain(calibration.stream),
    }


def _by_dtype(constants: dict[str, Any]) -> dict[str, Any]:
    """A block for each dtype; fp16 only names bf16's where they are equal."""
    blocks = {dtype: plain(each) for dtype, each in constants.items()}
    return {**blocks, "fp16": "bf16"} if "bf16" in blocks and blocks["bf16"] == blocks["fp16"] else blocks


def plain(constants: Any) -> dict[str, Any]:
    """One block of constants in the units of the file, evidence last."""
    values: dict[str, Any] = {}
    for field in fields(constants):
        if field.name == "evidence":
            continue
        key, factor = constant_key(field.name)
        value = getattr(constants, field.name)
        values[key] = value if isinstance(value, int | str) else _rounded(value / factor)
    evidence = {k: v for k, v in asdict(constants.evidence).items() if v not in (None, (), "")}
    for key in ("own_error_percent", "transfer_error_percent"):
        if key in evidence:
            evidence[key] = round(evidence[key], 1)
    for key in ("low_factor", "high_factor"):
        if key in evidence:
            evidence[key] = round(evidence[key], 3)
    if "from_gpus" in evidence:
        evidence["from_gpus"] = list(evidence["from_gpus"])
    return {**values, "evidence": evidence}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
