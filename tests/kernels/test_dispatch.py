"""The choice of a backend: by capability, by measurement where there is one, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import torch

from hwsearch.kernels import attention, dispatch, measured, varlen_attention
from hwsearch.kernels.backends import BACKENDS
from hwsearch.kernels.dispatch import Call, allowed, check_backend, choose, installed_packages
from hwsearch.kernels.measured import length_class, measured_for, measured_on, read_measured

H200 = Call("cuda", (9, 0), "bf16", 64, local=True)
T4 = Call("cuda", (7, 5), "fp16", 64, local=False)
CPU = Call("cpu", None, "fp32", 64, local=True)


@pytest.mark.parametrize(
    ("call", "backend"),
    [
        (H200, "triton"),
        (replace(H200, capability=(8, 0), dtype="fp32", head_size=128), "triton"),
        (replace(H200, capability=(12, 0), head_size=32), "triton"),
        (replace(H200, head_size=96), "torch_flash"),
        (replace(H200, head_size=96, packages=frozenset({"triton", "flash_attn"})), "flash_attn"),
        (replace(H200, packages=frozenset()), "torch_flash"),
        (replace(H200, head_size=96, dtype="fp32"), "efficient"),
        (replace(H200, head_size=264), "efficient"),
        (replace(H200, head_size=20), "sdpa"),
        (replace(H200, dtype="fp64"), "sdpa"),
        (T4, "efficient"),
        (replace(T4, local=True), "efficient"),
        (replace(T4, capability=(7, 0)), "efficient"),
        (replace(T4, capability=(6, 0), dtype="fp32"), "efficient"),
        (replace(T4, dtype="bf16"), "sdpa"),
        (CPU, "cpu"),
        (replace(CPU, dtype="fp64", head_size=7), "cpu"),
        (replace(CPU, interpreted=True), "cpu"),
        (replace(CPU, device="mps"), "sdpa"),
    ],
    ids=str,
)
def test_by_capability(call: Call, backend: str) -> None:
    assert choose(call, "long").backend == backend


def test_the_reason_says_why_not_triton() -> None:
    assert "Triton uses tensor cores from compute capability 8.0, not on 7.5" in choose(T4, "short").reason
    assert "diagonal" in choose(replace(T4, local=True), "short").reason
    assert "head sizes 32, 64, 128, not 96" in choose(replace(H200, head_size=96), "short").reason
    assert "not triton" not in choose(H200, "short").reason


@pytest.mark.parametrize(
    ("backend", "call", "reason"),
    [
        ("triton", T4, "8.0"),
        ("triton", CPU, "TRITON_INTERPRET"),
        ("triton", replace(H200, head_size=48), "head sizes 32, 64, 128, not 48"),
        ("triton", replace(H200, dtype="fp64"), "fp64"),
        ("triton", replace(H200, packages=frozenset()), "not installed"),
        ("flash_attn", H200, "not installed"),
        ("torch_flash", replace(H200, dtype="fp32"), "fp32"),
        ("torch_flash", replace(H200, head_size=20), "multiples of 8 up to 256, not 20"),
        ("torch_flash", T4, "7.5"),
        ("efficient", CPU, "CUDA"),
        ("efficient", replace(T4, dtype="bf16"), "bf16"),
        ("cpu", H200, "on cuda"),
        ("cuda", H200, "no backend has this name"),
    ],
)
def test_a_forced_backend_that_cannot_is_refused(backend: str, call: Call, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^backend: '{backend}': .*{reason}.*; accepted here: "):
        check_backend(backend, call)


def test_a_forced_backend_that_can_is_taken() -> None:
    for call in (H200, T4, CPU, replace(CPU, interpreted=True)):
        for backend in allowed(call):
            check_backend(backend, call)
    assert "triton" in allowed(replace(CPU, interpreted=True)) and set(allowed(H200)) < set(BACKENDS)


def row(**change: Any) -> dict[str, Any]:
    return {
        "dtype": "bf16", "head_size": 64, "window": "local", "length": "short", "pass": "forward",
        "seconds": {"triton": 3e-4, "torch_flash": 2e-4, "flash_attn": 1e-4},
    } | change  # fmt: skip


def table(*rows: Any, **change: Any) -> dict[str, Any]:
    return {
        "format": 1, "gpu": "h200-sxm", "device": "NVIDIA H200", "torch": "2.13", "triton": "3.9",
        "driver": "580", "date": "2026-11-21", "source": "measured", "rows": list(rows),
    } | change  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder of measurements, empty; what was read is forgotten before and after."""
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path))
    yield tmp_path / "tuned"
    measured._all.cache_clear()
    attention._choose.cache_clear()


def write(folder: Path, content: object, name: str = "h200-sxm") -> Path:
    path = folder / name / "attention_backend.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_fastest_that_was_measured_and_is_allowed(folder: Path) -> None:
    write(folder, table(row(), row(length="long", seconds={"triton": 1e-4, "torch_flash": 2.5e-4})))
    found = measured_on("NVIDIA H200")
    assert found is not None and found == measured_for("h200-sxm")
    assert measured_on("NVIDIA H100") is None and measured_for("t4") is None
    # flash_attn is the fastest, but not installed
    short = choose(H200, "short", found)
    assert short.backend == "torch_flash" and short.reason == "measured on h200-sxm: 1.50x as fast as triton"
    assert choose(H200, "long", found) == dispatch.Choice(
        "triton", "measured on h200-sxm: 2.50x as fast as torch_flash"
    )
    both = replace(H200, packages=frozenset({"triton", "flash_attn"}))
    assert choose(both, "short", found).backend == "flash_attn"
    for other in (replace(H200, training=True), replace(H200, local=False), replace(H200, head_size=128)):
        assert choose(other, "short", found) == choose(other, "short")
    assert choose(H200, "medium", found) == choose(H200, "medium")


def test_classes_of_length() -> None:
    assert [length_class(n) for n in (0, 128, 129, 1024, 1025, 10**9)] == (
        ["short", "short", "medium", "medium", "long", "long"]
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "a list; accepted: an object"),
        (table(format=2), "format: 2; accepted: 1"),
        (table(source="predicted"), "source: 'predicted'; accepted: 'measured'"),
        (table(device=None), "device: None"),
        (table(rows=None), "rows: accepted: a list"),
        (table(3), r"rows\[0\]: accepted: an object"),
        (table(row(), row(dtype="int8")), r"rows\[1\].dtype: 'int8'; accepted: fp16, bf16, fp32"),
        (table(row(head_size="64")), r"rows\[0\].head_size: '64'"),
        (table(row(length=["short"])), r"rows\[0\].length"),
        (table(row(seconds={"triton": 0})), r"rows\[0\].seconds"),
        (table(row(seconds={"triton": "fast"})), r"rows\[0\].seconds"),
        (table(row(seconds={"tritn": 1e-3})), r"rows\[0\].seconds: of tritn; accepted: triton, "),
        (table(row(), row()), "two of the same class"),
    ],
)
def test_a_broken_file_is_warned_of_once_and_ignored(folder: Path, content: object, reason: str) -> None:
    path = write(folder, content)
    with pytest.raises(ValueError, match=reason):
        read_measured(path)
    with pytest.warns(UserWarning, match=f"{path}: ignored: .*{reason}") as found:
        assert measured_on("NVIDIA H200") is None and measured_for("h200-sxm") is None
    assert len(found) == 1


def test_a_file_of_ones_own_wins_over_what_ships(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    own = write(folder, table(row()))
    write(shipped, table(row(seconds={"triton": 1e-9})))
    monkeypatch.setattr(measured, "_folders", lambda: (folder, shipped))
    found = measured_on("NVIDIA H200")
    assert found is not None and found.path == own


def test_a_measurement_changes_what_a_call_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that is taken for an H200 the measured backend is called, by the class of max_seqlen."""
    write(folder, table(row(dtype="fp32", seconds={"sdpa": 1e-4, "triton": 2e-4})))
    called = []
    for name in ("sdpa", "triton"):
        module = attention._module(name)
        monkeypatch.setattr(module, "attend", lambda q, k, v, p, name=name: (called.append(name) or q, None))
    monkeypatch.setattr(attention, "_chosen", _chosen_on_the_h200)
    q = torch.zeros(200, 2, 64)
    for length in (100, 200):
        offsets = torch.arange(0, 201, length)
        varlen_attention(q, q, q, offsets, length, window=8)
    assert called == ["sdpa", "triton"]


def _chosen_on_the_h200(*call: object) -> tuple[str, ...]:
    choices = dispatch.choices(replace(H200, dtype="fp32"), measured_on("NVIDIA H200"))
    return tuple(choice.backend for choice in choices)


def test_nothing_is_read_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, table(row()))
    reads = []
    monkeypatch.setattr(measured, "read_measured", lambda path: reads.append(path) or read_measured(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            measured_on("NVIDIA H200")
    assert len(reads) == 1


def test_a_namespace_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention-4 alone installs flash_attn/cute, and nothing that this backend could call."""
    find_packages = installed_packages.__wrapped__
    if "flash_attn" in find_packages():
        pytest.skip("flash-attn is installed")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    assert "flash_attn" not in find_packages()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    invalidate_caches()
    assert "flash_attn" in find_packages()


def test_the_choice_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = sys.modules['yaml'] = None\n"
        "from hwsearch.kernels.dispatch import Call, choose\n"
        "print(choose(Call('cuda', (9, 0), 'bf16', 64, local=True), 'long').backend)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "triton", done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import hwsearch.kernels

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hwsearch.kernels.nothing
    assert set(hwsearch.kernels.__all__) <= {*dir(hwsearch.kernels), *hwsearch.kernels._MODULES}
