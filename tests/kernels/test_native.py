"""The C++ kernels for CPUs: what tests/kernels/test_backends.py has not, and how they come to a machine."""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_backends import batch, reference, rope_tables
from torch import Tensor
from torch.nn import functional as F

from hwsearch.kernels import varlen_attention, varlen_attention_qkvpacked
from hwsearch.kernels.cpu_kernels import library
from hwsearch.kernels.gated import gated_gelu

needs_compiler = pytest.mark.skipif(library.why_none() is not None, reason=str(library.why_none()))


def native(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], **options: Any) -> Tensor:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return varlen_attention(q, k, v, offsets, max(lengths, default=0), backend="native", **options)


@needs_compiler
@given(
    lengths=st.lists(st.integers(0, 120), max_size=5),
    window=st.none() | st.integers(0, 130),
    causal=st.booleans(),
    rope=st.booleans(),
    size=st.sampled_from([16, 32, 48, 64, 128]),
    groups=st.sampled_from([1, 2, 4]),
)
def test_it_is_attention(
    lengths: list[int], window: int | None, causal: bool, rope: bool, size: int, groups: int
) -> None:
    """Outputs and gradients are those of float64 arithmetic on one dense mask."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), heads, size, requires_grad=True) for heads in (4, groups, groups))
    tables = rope_tables(max(lengths, default=0), size, "cpu") if rope else None
    precise = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted, _ = reference(*precise, lengths, tables, window=window, causal=causal)
    found = native(q, k, v, lengths, window=window, causal=causal, rope=tables)
    slope = torch.randn(found.shape)
    pairs = zip(
        (found, *torch.autograd.grad(found, (q, k, v), slope)),
        (wanted, *torch.autograd.grad(wanted, precise, slope.double())),
        strict=True,
    )
    for mine, true in pairs:
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    "options", [{}, {"window": 700}, {"causal": True}, {"causal": True, "window": 600}], ids=str
)
def test_sequences_of_several_chunks_of_keys(options: dict[str, Any]) -> None:
    lengths = [1301, 40, 513]
    q, k, v, *_ = batch(lengths, torch.float32)
    precise = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted, _ = reference(*precise, lengths, **options)
    found = native(q, k, v, lengths, **options)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(found.sum(), (q, k, v))
    for gradient, true in zip(mine, torch.autograd.grad(wanted.sum(), precise), strict=True):
        torch.testing.assert_close(gradient.double(), true, rtol=1e-5, atol=2e-5)


@needs_compiler
def test_scores_far_apart_do_not_overflow() -> None:
    """Later chunks may hold larger scores, or only much smaller ones."""
    for order in (1, -1):
        scores = order * torch.linspace(-300, 300, 1200)
        q, k = torch.ones(1200, 1, 16), scores[:, None, None].expand(1200, 1, 16) / 16
        v = torch.randn(1200, 1, 16)
        wanted, _ = reference(q.double(), k.double(), v.double(), [1200], scale=1.0)
        found = native(q, k, v, [1200], scale=1.0)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_sequence_alone(bad: float) -> None:
    q, k, v, *_ = batch([40, 50, 30], torch.float32)
    for place in (q, k, v):
        with torch.no_grad():
            kept = place[60].clone()
            place[60] = bad
        out = native(q, k, v, [40, 50, 30])
        assert not out[40:90].isfinite().all()
        assert out[:40].isfinite().all() and out[90:].isfinite().all()
        with torch.no_grad():
            place[60] = kept


@needs_compiler
def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = torch.randn(700, 3, 4, 32, requires_grad=True)
    offsets = torch.tensor([0, 300, 310, 700])
    answers = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out = varlen_attention_qkvpacked(qkv, offsets, 390, window=20, backend="native")
        answers.append((out, *torch.autograd.grad(out.sum(), qkv)))
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


@needs_compiler
def test_strides_are_read_where_they_lie() -> None:
    """Views of other layouts, of which no copy is asked for."""
    wide = torch.randn(4, 90, 3, 40, requires_grad=True)
    views = [wide[..., place, :32].transpose(0, 1) for place in range(3)]
    out = native(*views, [60, 30], window=8)
    copies = [view.detach().clone().requires_grad_() for view in views]
    again = native(*copies, [60, 30], window=8)
    torch.testing.assert_close(out, again, rtol=0, atol=0)
    slope = torch.randn(90, 32, 4).transpose(1, 2)  # whose heads have elements that do not lie side by side
    (found,) = torch.autograd.grad(out, wide, slope)
    for place, gradient in enumerate(torch.autograd.grad(again, copies, slope)):
        assert torch.equal(found[..., place, :32].transpose(0, 1), gradient)


@needs_compiler
def test_rows_that_overlap_in_memory_have_gradients_of_their_own() -> None:
    q = torch.randn(60).unfold(0, 32, 1)[:, None].requires_grad_()  # [29, 1, 32], strides 1, 32, 1
    copy = q.detach().contiguous().requires_grad_()
    slope = torch.randn(29, 1, 32)
    mine, wanted = (torch.autograd.grad(native(x, x, x, [20, 9]), x, slope) for x in (q, copy))
    assert torch.equal(*mine, *wanted)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@needs_compiler
def test_what_new_tensors_are_by_default_does_not_matter(double_by_default: None) -> None:
    q, k, v, *_ = batch([20, 9], torch.float32)
    out = native(q, k, v, [20, 9])
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), reference(q, k, v, [20, 9])[0].double(), rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_offsets_may_be_filled_anew_before_the_backward_pass(dtype: torch.dtype) -> None:
    """As by a loader that has the next batch; the kernels would read past the ends of tensors."""
    qkv = torch.randn(30, 3, 2, 16, requires_grad=True)
    offsets = torch.tensor([0, 10, 30], dtype=dtype)
    gradients = []
    for later in ([0, 10, 30], [0, 29, 30]):
        given = offsets.clone()
        for out in (
            varlen_attention(*qkv.unbind(1), given, 20, backend="native"),
            varlen_attention_qkvpacked(qkv, given, 20, backend="native"),
        ):
            given.copy_(torch.tensor(later))
            gradients += torch.autograd.grad(out.square().sum(), qkv)
            given.copy_(offsets)
    assert all(torch.equal(gradients[0], each) for each in gradients[1:])


@needs_compiler
def test_angles_that_change_before_the_backward_pass_are_an_error() -> None:
    qkv = torch.randn(30, 3, 2, 16, requires_grad=True)
    offsets = torch.tensor([0, 10, 30])
    for packed in (True, False):
        cos, sin = rope_tables(20, 16, "cpu")
        if packed:
            out = varlen_attention_qkvpacked(qkv, offsets, 20, rope=(cos, sin), backend="native")
        else:
            out = varlen_attention(*qkv.unbind(1), offsets, 20, rope=(cos, sin), backend="native")
        sin.neg_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@needs_compiler
def test_angles_that_are_learned_get_their_gradient() -> None:
    q, k, v, *_ = batch([20, 9], torch.float32)
    tables = [table.requires_grad_() for table in rope_tables(20, 32, "cpu")]
    offsets = torch.tensor([0, 20, 29])

    def gradients(backend: str) -> tuple[Tensor, ...]:
        out = varlen_attention(q, k, v, offsets, 20, rope=(tables[0], tables[1]), backend=backend)
        return torch.autograd.grad(out.square().sum(), (q, *tables))

    for mine, plain in zip(gradients("native"), gradients("cpu"), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_it_is_built_once(nothing_compiled: Path) -> None:
    assert library.why_none() is None
    (built,) = nothing_compiled.iterdir()
    before = built.stat().st_mtime_ns
    library.library.cache_clear()
    library.library()
    assert list(nothing_compiled.iterdir()) == [built] and built.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("no-such-compiler", "no C++ compiler: no-such-compiler is not found"),
        ("false", "exit status 1"),
        ('g++ "', "$CXX: No closing quotation"),
    ],
)
def test_without_a_working_compiler_there_is_a_reason(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, why: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert why in (library.why_none() or "")


@needs_compiler
@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("#!/bin/sh\nfor last; do :; done; [ $last = --version ] || : > $last\n", "file too short"),
        ("#!/bin/sh\n", "No such file or directory"),
        ("neither a program nor a script", "Exec format error"),
    ],
    ids=["writes nothing", "writes no file", "is no program"],
)
def test_a_compiler_that_is_none_is_a_reason_that_names_a_file_once(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, why: str
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(program)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    found = library.why_none() or ""
    assert why in found and found.count(str(tmp_path)) == 1


def test_a_home_that_is_not_there_is_a_reason(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HWSEARCH_CACHE", "~nobody-of-this-name/cache")
    monkeypatch.chdir(tmp_path)
    assert "no such home" in (library.why_none() or "")
    assert list(tmp_path.iterdir()) == []


def test_a_torch_that_cannot_be_imported_is_a_reason(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError(f"lib{name}_cpu.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert "torch cannot be imported: libtorch_cpu.so" in (library.why_none() or "")


def test_elsewhere_than_on_linux_nothing_is_tried(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert library.why_none() == "they are built on Linux, and this is darwin"


@needs_compiler
def test_a_source_that_does_not_compile_leaves_nothing(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.cpp").write_text("int f() { return missing; }\n")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert "missing" in (library.why_none() or "")
    assert list(nothing_compiled.iterdir()) == []


@needs_compiler
def test_a_folder_that_cannot_be_written_is_a_reason(
    nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "file"))
    assert "Not a directory" in (library.why_none() or "")


@needs_compiler
def test_processes_that_build_at_once_share_one(nothing_compiled: Path) -> None:
    code = "from hwsearch.kernels.cpu_kernels import library; print(library.why_none())"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [each.communicate()[0].strip() for each in running] == ["None"] * 3
    assert len(list(nothing_compiled.iterdir())) == 1


@needs_compiler
def test_a_forked_process_can_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that the parent has used are not there, and OpenMP would wait for them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    q = torch.randn(50, 2, 16)
    native(q, q, q, [50])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply_async(_attend_once).get(timeout=60)


def _attend_once() -> None:
    q = torch.ones(50, 2, 16)
    assert torch.equal(native(q, q, q, [50]), q)


@needs_compiler
@given(
    rows=st.integers(0, 70),
    columns=st.sampled_from([16, 48, 400, 1152]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_gated_gelu(rows: int, columns: int, scale: float) -> None:
    """As float64 has it, as near as torch's own float32."""
    torch.manual_seed(0)
    inner = (scale * torch.randn(rows, 2 * columns)).requires_grad_()
    precise, slope = inner.detach().double().requires_grad_(), torch.randn(rows, columns)
    a, b = precise.chunk(2, dim=-1)
    wanted = F.gelu(a) * b
    (dwanted,) = torch.autograd.grad(wanted, precise, slope.double())
    found = gated_gelu(inner)
    (dfound,) = torch.autograd.grad(found, inner, slope)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-7 * scale)
    torch.testing.assert_close(dfound.double(), dwanted, rtol=2e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("columns", [16, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gated_gelu_of_any_sizes(columns: int, dtype: torch.dtype) -> None:
    """Also where the C++ kernels do not serve, and of views that lie otherwise in memory."""
    inner = torch.randn(2 * columns, 3, 5, dtype=dtype).permute(1, 2, 0).requires_grad_()
    a, b = inner.chunk(2, dim=-1)
    for found, wanted in (
        (gated_gelu(inner), F.gelu(a) * b),
        (torch.autograd.grad(f(inner).sum(), inner)[0] for f in (gated_gelu, lambda x: F.gelu(a) * b)),
    ):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match=r"^inner: shape \(3, 7\); accepted: an even last dimension"):
        gated_gelu(torch.randn(3, 7))
