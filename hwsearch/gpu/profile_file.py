"""Reads a GPU profile from YAML; every mistake is named with its file, line and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from hwsearch import files
from hwsearch.errors import HwsearchError
from hwsearch.files import KeyPath, YamlDocument
from hwsearch.gpu.attention_kernels import KERNELS
from hwsearch.gpu.calibration import (
    AttentionConstants,
    Calibration,
    CalibrationKind,
    Evidence,
    EvidenceKind,
    GemmConstants,
    SimtConstants,
    StreamConstants,
)
from hwsearch.gpu.profile import DTYPES, Gpu

# Key in the file -> (attribute of Gpu, factor to base units, whole number or not).
NUMBERS: dict[str, tuple[str, float, type]] = {
    "sms": ("sms", 1, int),
    "boost_mhz": ("boost_hz", 1e6, float),
    "bandwidth_gb_per_s": ("bandwidth_bytes_per_s", 1e9, float),
    "memory_gib": ("memory_bytes", 2**30, int),
    "l2_mib": ("l2_bytes", 2**20, int),
    "tdp_w": ("tdp_w", 1, float),
    "shared_memory_per_sm_kib": ("shared_memory_per_sm_bytes", 2**10, int),
    "shared_memory_per_block_kib": ("shared_memory_per_block_bytes", 2**10, int),
    "registers_per_sm": ("registers_per_sm", 1, int),
    "threads_per_sm": ("threads_per_sm", 1, int),
    "blocks_per_sm": ("blocks_per_sm", 1, int),
}
TEXT_KEYS = ("name", "product", "nvml_names", "architecture", "compute_capability")
# Endings of the constants by which something is divided.
NEVER_ZERO = ("_fraction", "_tile", "_per_cycle", "_speed")
# In the units of the file; beyond any card.
LARGEST_NUMBER = 1e9
FIRST_TENSOR_CORES = (7, 0)
TOP_KEYS = (*TEXT_KEYS, "dense_tflops", *NUMBERS, "calibration")


def read_profile(path: Path) -> Gpu:
    """Read one profile; raises HwsearchError naming file, line, key and what is accepted."""
    reader = _Reader(files.read_yaml(path))
    top = reader.mapping((), TOP_KEYS)
    name = reader.text(("name",))
    if name != path.stem:
        reader.fail(("name",), f"is {name!r}, but the file is called {path.name}")
    sources: dict[str, str] = {}

    def fact(*keys: str) -> tuple[KeyPath, Any]:
        reader.mapping(keys, ("value", "source"))
        sources[".".join(keys)] = reader.text((*keys, "source"))
        return (*keys, "value"), reader.get((*keys, "value"))

    attributes: dict[str, Any] = {}
    for key, (attribute, factor, kind) in NUMBERS.items():
        where, _ = fact(key)
        attributes[attribute] = kind(reader.positive(where, whole=kind is int and factor == 1) * factor)
    dtypes = tuple(reader.mapping(("dense_tflops",), DTYPES, required=("fp32",)))
    rates = {d: reader.positive(fact("dense_tflops", d)[0]) * 1e12 for d in DTYPES if d in dtypes}
    architecture, capability = fact("architecture")[0], fact("compute_capability")[0]
    capability_of = _capability(reader, capability)
    nvml_names = top["nvml_names"]
    if not isinstance(nvml_names, list) or not all(isinstance(n, str) for n in nvml_names):
        reader.fail(("nvml_names",), "must be a list of names")
    return Gpu(
        name=name,
        product=reader.text(("product",)),
        nvml_names=tuple(nvml_names),
        architecture=reader.text(architecture),
        compute_capability=capability_of,
        dense_flops_per_s=rates,
        sources=sources,
        calibration=_calibration(reader, tuple(rates), tensor_cores=capability_of >= FIRST_TENSOR_CORES),
        **attributes,
    )


def _capability(reader: _Reader, keys: KeyPath) -> tuple[int, int]:
    text = str(reader.get(keys))
    major, _, minor = text.partition(".")
    if not (text.isascii() and major.isdigit() and minor.isdigit()):
        reader.fail(keys, f"must be a compute capability such as '8.9', not {text!r}")
    return int(major), int(minor)


def _calibration(reader: _Reader, dtypes: tuple[str, ...], tensor_cores: bool) -> Calibration:
    reader.mapping(("calibration",), ("kind", "gemm", "attention", "stream"))
    kind: CalibrationKind = reader.choice(("calibration", "kind"), get_args(CalibrationKind))
    for operator in ("gemm", "attention"):
        reader.mapping(("calibration", operator), dtypes)
    gemm = {
        d: _constants(
            reader,
            _block_of(reader, "gemm", d),
            GemmConstants if tensor_cores and d != "fp32" else SimtConstants,
        )
        for d in dtypes
    }
    attention = {d: _constants(reader, _block_of(reader, "attention", d), AttentionConstants) for d in dtypes}
    stream: StreamConstants = _constants(reader, ("calibration", "stream"), StreamConstants)
    return Calibration(kind, gemm, attention, stream)


def _block_of(reader: _Reader, operator: str, dtype: str) -> KeyPath:
    """Where the constants of `dtype` stand: `fp16: bf16` says that both share one block."""
    keys: KeyPath = ("calibration", operator, dtype)
    other = reader.get(keys)
    if not isinstance(other, str):
        return keys
    if not isinstance(reader.get(("calibration", operator)).get(other), dict):
        reader.fail(keys, f"must be a block of constants or name a dtype that has one, not {other!r}")
    return ("calibration", operator, other)


def constant_key(field_name: str) -> tuple[str, float]:
    """The key of a constant in the file, and the factor that takes it to the code's unit."""
    return (f"{field_name.removesuffix('_s')}_us", 1e-6) if field_name.endswith("_s") else (field_name, 1.0)


def _constants(reader: _Reader, keys: KeyPath, kind: type) -> Any:
    names = [f.name for f in fields(kind) if f.name != "evidence"]
    reader.mapping(keys, [*(constant_key(n)[0] for n in names), "evidence"])
    values: dict[str, Any] = {}
    for name in names:
        if name == "kernel":
            values[name] = reader.choice((*keys, name), KERNELS)
            continue
        key, factor = constant_key(name)
        whole = name.endswith("_tile")
        number = reader.positive((*keys, key), whole=whole, zero=not name.endswith(NEVER_ZERO))
        values[name] = int(number) if whole else number * factor
    return kind(**values, evidence=_evidence(reader, (*keys, "evidence")))


def _evidence(reader: _Reader, keys: KeyPath) -> Evidence:
    numbers = ("own_error_percent", "transfer_error_percent", "low_factor", "high_factor")
    optional = (*numbers, "from_gpus", "note")
    block = reader.mapping(keys, ("kind", "data", "rows", *optional), required=("kind", "data", "rows"))
    errors = {k: reader.positive((*keys, k), zero=True) for k in numbers if block.get(k) is not None}
    if errors.get("low_factor", 1) > 1:
        reader.fail((*keys, "low_factor"), f"must be at most 1, not {errors['low_factor']}")
    if errors.get("high_factor", 1) < 1:
        reader.fail((*keys, "high_factor"), f"must be at least 1, not {errors['high_factor']}")
    return Evidence(
        kind=reader.choice((*keys, "kind"), get_args(EvidenceKind)),
        data=reader.text((*keys, "data")),
        rows=int(reader.positive((*keys, "rows"), whole=True, zero=True)),
        from_gpus=tuple(str(name) for name in block.get("from_gpus") or ()),
        note=str(block.get("note") or ""),
        **errors,
    )


class _Reader:
    """Typed look-ups in a YAML document that fail with file, line and key."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document

    def fail(self, keys: KeyPath, problem: str) -> NoReturn:
        name = ".".join(str(key) for key in keys) or "the profile"
        raise HwsearchError(f"{self._document.where(keys)}: {name} {problem}")

    def get(self, keys: KeyPath) -> Any:
        value = self._document.data
        for key in keys:
            value = value[key]
        return value

    def mapping(
        self, keys: KeyPath, accepted: tuple[str, ...] | list[str], required: tuple[str, ...] | None = None
    ) -> Mapping[str, Any]:
        value = self.get(keys)
        if not isinstance(value, dict):
            self.fail(keys, f"must be a block with the keys {', '.join(accepted)}")
        for key in value:
            if key not in accepted:
                self.fail((*keys, key), f"is not a known key; accepted: {', '.join(accepted)}")
        for key in accepted if required is None else required:
            if key not in value:
                self.fail(keys, f"lacks the key {key}")
        return value

    def text(self, keys: KeyPath) -> str:
        value = self.get(keys)
        if not isinstance(value, str) or not value.strip():
            self.fail(keys, f"must be text, not {value!r}")
        return value

    def choice(self, keys: KeyPath, accepted: tuple[Any, ...]) -> Any:
        value = self.get(keys)
        if value not in accepted:
            self.fail(keys, f"is {value!r}; accepted: {', '.join(accepted)}")
        return value

    def positive(self, keys: KeyPath, whole: bool = False, zero: bool = False) -> float:
        value = self.get(keys)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(keys, f"must be a {'whole ' if whole else ''}number, not {value!r}")
        # The chained comparison also refuses NaN and infinity.
        if not (0 <= value <= LARGEST_NUMBER) or (value == 0 and not zero):
            self.fail(keys, f"must be {'at least' if zero else 'above'} 0 and no giant, not {value!r}")
        if whole and value != int(value):
            self.fail(keys, f"must be a whole number, not {value!r}")
        return float(value)
