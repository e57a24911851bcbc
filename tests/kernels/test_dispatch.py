"""The choice of a backend: by capability, by measurement where there is one, without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import torch
from tuned_rows import row, write

from hwsearch.kernels import attention, dispatch, tuned, tuned_state, varlen_attention
from hwsearch.kernels.backends import BACKENDS
from hwsearch.kernels.dispatch import Call, Choice, allowed, check_backend, choose, installed_packages
from hwsearch.kernels.tuned import Found, Key

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
        (CPU, "native"),
        (replace(CPU, dtype="fp64"), "cpu"),
        (replace(CPU, head_size=24), "cpu"),
        (replace(CPU, interpreted=True), "native"),
        (replace(CPU, device="mps"), "sdpa"),
    ],
)
def test_by_capability(call: Call, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_none", lambda: None)
    assert choose(call).backend == backend


def test_where_nothing_can_be_compiled_a_cpu_has_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_none", lambda: "no C++ compiler")
    assert choose(CPU) == Choice("cpu", "plain PyTorch for CPUs; not native: no C++ compiler")
    with pytest.raises(ValueError, match=r"^backend: 'native': no C\+\+ compiler; accepted here: sdpa, cpu$"):
        check_backend("native", CPU)


def test_the_reason_says_why_not_triton() -> None:
    assert "Triton uses tensor cores from compute capability 8.0, not on 7.5" in choose(T4).reason
    assert "diagonal" in choose(replace(T4, local=True)).reason
    assert "head sizes 32, 64, 128, not 96" in choose(replace(H200, head_size=96)).reason
    assert "not triton" not in choose(H200).reason


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
        ("native", H200, "on cuda"),
        ("native", replace(CPU, dtype="bf16"), "fp32, not bf16"),
        ("native", replace(CPU, head_size=24), "multiples of 16, not 24"),
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


def found(state: str = "exact", **change: Any) -> Found:
    """What a look-up finds: torch_flash before triton; flash_attn, not installed, before both."""
    values: dict[str, Any] = {
        "config": {"backend": "flash_attn"},
        "seconds": 1e-4,
        "alternatives": (({"backend": "torch_flash"}, 2e-4), ({"backend": "triton"}, 3e-4)),
    }
    return Found(state, row("attention_backend", **values | change), "h200-sxm")


def test_the_fastest_that_was_measured_and_is_allowed() -> None:
    choice = choose(H200, found())
    assert choice == Choice("torch_flash", "exact: measured on h200-sxm", (pytest.approx(1.5), "triton"))
    both = replace(H200, packages=frozenset({"triton", "flash_attn"}))
    assert choose(both, found()).backend == "flash_attn"
    assert choose(H200, found("same family")).reason == "same family: measured on h200-sxm"


def test_where_nothing_that_was_measured_is_allowed_the_capability_decides() -> None:
    assert choose(H200, found(alternatives=())) == choose(H200)
    assert choose(T4, found()) == choose(T4)
    assert choose(H200, found(config={"backend": "sdpa"}, alternatives=())) == Choice(
        "sdpa", "exact: measured on h200-sxm", None
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder of tables, empty; what was read is forgotten before and after."""
    monkeypatch.setattr(tuned, "folders", lambda: (tmp_path,))
    tuned.forget()
    yield tmp_path
    tuned.forget()


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, no_compiler: None) -> list[str]:
    """Names of the backends that calls on a CPU ran, in order."""
    names: list[str] = []
    for name in ("sdpa", "cpu"):
        module = attention._module(name)
        monkeypatch.setattr(
            module, "attend", lambda q, k, v, p, name=name: (names.append(name) or q + k + v, None)
        )
    return names


def run(length: int, training: bool = False, **arguments: Any) -> None:
    q = torch.zeros(200, 2, 64, requires_grad=training)
    varlen_attention(q, q, q, torch.arange(0, 201, length), length, **arguments)


def table(folder: Path, kernel: str, *keys: Key) -> None:
    """On this very CPU sdpa is the fastest."""
    rows = [row(kernel, key, config={"backend": "sdpa"}) for key in keys]
    write(folder, "cpu", *rows, kernel=kernel)


def test_a_table_changes_what_a_call_runs_by_its_length_and_window(folder: Path, called: list[str]) -> None:
    table(folder, "attention_backend", Key("fp32", 64, "narrow", 512), Key("fp32", 64, "global", 32))
    # 512 narrow; its neighbour; too far; global again, since a window of 64 hides nothing of 20 tokens
    for length, window in ((200, 8), (100, 8), (50, 8), (20, 64), (200, 64), (200, 199), (200, None)):
        run(length, window=window)
    assert called == ["sdpa", "sdpa", "cpu", "sdpa", "sdpa", "cpu", "cpu"]


def test_training_and_forward_have_tables_of_their_own(folder: Path, called: list[str]) -> None:
    table(folder, "attention_backend_training", Key("fp32", 64, "global", 512))
    run(200)
    run(200, training=True)
    with torch.no_grad():
        run(200, training=True)
    assert called == ["cpu", "sdpa", "cpu"]


def test_causal_calls_are_not_tuned(folder: Path, called: list[str]) -> None:
    table(folder, "attention_backend", Key("fp32", 64, "global", 512))
    run(200, causal=True)
    run(200)
    assert called == ["cpu", "sdpa"]


def test_sequences_beyond_all_classes_belong_to_the_last(folder: Path, called: list[str]) -> None:
    table(folder, "attention_backend", Key("fp32", 64, "wide", 8192))
    q = torch.zeros(9000, 1, 64)
    for window in (8500, 9000, None):
        varlen_attention(q, q, q, torch.tensor([0, 9000]), 9000, window=window)
    assert called == ["sdpa", "cpu", "cpu"]


def test_what_a_call_finds_can_be_asked(folder: Path) -> None:
    table(folder, "attention_backend", Key("fp32", 64, "narrow", 512))

    def state(max_seqlen: int, **arguments: Any) -> str:
        arguments = {"kernel": "attention_backend", "dtype": torch.float32, "device": "cpu"} | arguments
        return tuned_state(max_seqlen=max_seqlen, **arguments).state

    assert (state(512, window=64), state(129, window=64)) == ("exact", "exact")
    assert state(128, window=64) == state(2048, window=64) == "same GPU"
    assert state(512) == state(512, window=511) == state(512, window=200) == "default"
    assert state(512, window=64, causal=True) == state(512, window=64, head_size=128) == "default"
    assert state(512, window=64, dtype=torch.float64) == state(512, window=64, device="meta") == "default"
    with pytest.raises(ValueError, match=r"^kernel: 'matmul'; accepted: attention_forward, "):
        state(512, kernel="matmul")
    with pytest.raises(ValueError, match=r"^dtype: torch\.int8; accepted: "):
        state(512, dtype=torch.int8)


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
        "print(choose(Call('cuda', (9, 0), 'bf16', 64, local=True)).backend)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "triton", done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import hwsearch.kernels

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hwsearch.kernels.nothing
    assert set(hwsearch.kernels.__all__) <= {*dir(hwsearch.kernels), *hwsearch.kernels._MODULES}
