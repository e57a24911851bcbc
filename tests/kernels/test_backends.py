"""All backends give the same answer: output, log-sum-exp and the gradients of both."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hwsearch.kernels import attention_schedule, varlen_attention, varlen_attention_qkvpacked
from hwsearch.kernels.backends import efficient, torch_flash
from hwsearch.kernels.backends.log_sum_exp import log_sum_exp
from hwsearch.kernels.problem import Problem

NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))
HERE = "cuda" if torch.cuda.is_available() else "cpu"
# Backends whose kernels exist on the device at hand; those for a GPU alone carry the mark.
ON_CPU = ["native", "cpu", "sdpa", "triton"]
ON_GPU = ["triton", "flash_attn", "torch_flash", "efficient", "sdpa"]
BACKENDS = [
    *(pytest.param(b, "cpu", id=f"{b}-cpu") for b in ON_CPU),
    *(pytest.param(b, "cuda", id=f"{b}-cuda", marks=NEEDS_GPU) for b in ON_GPU),
]
# Lengths, options of varlen_attention.
BATCHES: dict[str, tuple[list[int], dict[str, Any]]] = {
    "global": ([33, 0, 1, 64, 7], {}),
    "local": ([0, 90, 5, 40], {"window": 16}),
    "local of one key": ([20, 3], {"window": 0}),
    "window wider than the sequences": ([17, 40], {"window": 10**12}),
    "causal": ([65, 2, 0, 31], {"causal": True}),
    "causal and local": ([80, 0, 33], {"causal": True, "window": 9}),
    "another scale": ([30, 21], {"scale": 0.5, "window": 8}),
    "one sequence": ([70], {}),
    "empty sequences alone": ([0, 0], {}),
    "no sequences": ([], {}),
}
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_every_backend_gives_the_same_answer(backend: str, device: str, rope: bool, name: str) -> None:
    if device == "cpu" and HERE == "cuda" and backend == "triton":
        pytest.skip("the kernels are compiled for the GPU here")
    if backend == "flash_attn":
        pytest.importorskip("flash_attn")
    lengths, options = BATCHES[name]
    dtype = torch.float16 if backend in ("flash_attn", "torch_flash") else torch.float32
    check(lengths, {**options, "backend": backend}, dtype, device, rope)


def check(lengths: list[int], options: dict[str, Any], dtype: torch.dtype, device: str, rope: bool) -> None:
    """Both outputs and all gradients against float64 arithmetic on one dense mask; heads are grouped."""
    q, k, v, cu_seqlens, max_seqlen = batch(lengths, dtype, device)
    tables = rope_tables(max_seqlen + 2, q.shape[2], device) if rope else None
    out, lse = varlen_attention(q, k, v, cu_seqlens, max_seqlen, **options, rope=tables, return_lse=True)
    assert out.dtype == dtype and out.shape == q.shape
    assert lse.dtype == torch.float32 and lse.shape == (q.shape[1], q.shape[0])
    precise = [x.detach().double().requires_grad_() for x in (q, k, v)]
    mask = {key: each for key, each in options.items() if key != "backend"}
    expected = reference(*precise, lengths, tables, **mask)
    weights = [torch.randn(x.shape, dtype=torch.float64, device=device) for x in (out, lse)]
    gradients = torch.autograd.grad(
        (out.double() * weights[0]).sum() + (lse.double() * weights[1]).sum(), (q, k, v)
    )
    true = torch.autograd.grad(sum((x * w).sum() for x, w in zip(expected, weights, strict=True)), precise)
    for found, wanted in zip((out, lse, *gradients), (*expected, *true), strict=True):
        assert found.isfinite().all()
        bound = TOLERANCE[dtype] * (1 + (wanted.abs().max().item() if wanted.numel() else 0))
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=bound)


def batch(
    lengths: list[int], dtype: torch.dtype, device: str = "cpu", heads: int = 4, groups: int = 2
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    torch.manual_seed(0)
    tokens = sum(lengths)
    q, k, v = (
        torch.randn(tokens, h, 32, device=device).to(dtype).requires_grad_() for h in (heads, groups, groups)
    )
    cu_seqlens = torch.tensor(
        [0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()], device=device
    )
    return q, k, v, cu_seqlens, max(lengths, default=0)


def rope_tables(length: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    angle = torch.outer(torch.arange(length).double(), 100.0 ** -(torch.arange(size // 2) / (size // 2)))
    return angle.cos().float().to(device), angle.sin().float().to(device)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    rope: tuple[Tensor, Tensor] | None = None,
    window: int | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(out, lse) of all tokens against all tokens, with one dense mask."""
    if rope is not None:
        q, k = turned(q, lengths, rope), turned(k, lengths, rope)
    scores, v = scores_and_values(q, k, v, lengths, window, causal, scale)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).contiguous(), scores.logsumexp(-1)


def turned(x: Tensor, lengths: list[int], rope: tuple[Tensor, Tensor]) -> Tensor:
    place = torch.cat([torch.arange(s) for s in [0, *lengths]]).to(x.device)
    cos, sin = (table.double()[place][:, None] for table in rope)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def scores_and_values(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    place = torch.cat([torch.arange(s) for s in [0, *lengths]])
    ahead = place[None, :] - place[:, None]
    visible = sequence[:, None] == sequence[None, :]
    visible &= (ahead.abs() <= (10**9 if window is None else window)) & (ahead <= (0 if causal else 10**9))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    return scores.masked_fill(~visible.to(q.device), -math.inf), v


def gradients_of(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None, causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of `reference`, written out: inside an operator autograd is off."""
    dtype, group = q.dtype, q.shape[1] // k.shape[1]
    dout, q, k, v = (x.double() for x in (dout, q, k, v))
    scores, values = scores_and_values(q, k, v, lengths, window, causal, scale)
    weights = scores.softmax(-1)
    dweights = torch.einsum("ihd,jhd->hij", dout, values)
    dscores = scale * weights * (dweights - (weights * dweights).sum(-1, keepdim=True))
    dq = torch.einsum("hij,jhd->ihd", dscores, k.repeat_interleave(group, dim=1))
    dk, dv = torch.einsum("hij,ihd->jhd", dscores, q), torch.einsum("hij,ihd->jhd", weights, dout)
    dk, dv = (x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv))
    return dq.to(dtype).contiguous(), dk.to(dtype), dv.to(dtype)


# The three libraries' kernels do not exist on a CPU. Stand-ins of the same signatures, which understand the
# arguments as the libraries document them, show whether ours are right: window, scale, heads, layouts.


def lengths_of(cu_seqlens: Tensor) -> list[int]:
    assert cu_seqlens.dtype == torch.int32 and cu_seqlens.is_contiguous()
    return cu_seqlens.diff().tolist()


def flash_mask(cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, left: int, right: int):
    """(lengths, window, causal) as FlashAttention-2 reads them.

    A side is off where it is negative or as wide as max_k; causal sets the right one to 0.
    """
    lengths = lengths_of(cu_q)
    assert torch.equal(cu_q, cu_k) and max_q == max_k >= max(lengths)
    right = 0 if causal else right
    left, right = (10**9 if not 0 <= side < max_k else side for side in (left, right))
    assert right in (0, left), "the reference knows symmetric and causal windows"
    return lengths, left, right == 0 and left != 0


def flash_forward(
    query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *,
    scale=None, window_size_left=None, window_size_right=None,
):  # fmt: skip
    """aten::_flash_attention_forward"""
    assert dropout_p == 0 and not return_debug_mask and all(x.stride(-1) == 1 for x in (query, key, value))
    window = (window_size_left, window_size_right)
    lengths, window, causal = flash_mask(cum_seq_q, cum_seq_k, max_q, max_k, is_causal, *window)
    precise = (x.double() for x in (query, key, value))
    out, lse = reference(*precise, lengths, window=window, causal=causal, scale=scale)
    return out.to(query.dtype), lse.float(), torch.empty(0), torch.empty(0), torch.empty(0)


def flash_backward(
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal,
    rng_state, unused, *, scale=None, window_size_left=None, window_size_right=None,
):  # fmt: skip
    """aten::_flash_attention_backward"""
    again = flash_forward(
        query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, False,
        scale=scale, window_size_left=window_size_left, window_size_right=window_size_right,
    )  # fmt: skip
    assert torch.equal(out, again[0]) and torch.equal(logsumexp, again[1])
    window = (window_size_left, window_size_right)
    mask = flash_mask(cum_seq_q, cum_seq_k, max_q, max_k, is_causal, *window)
    return gradients_of(grad_out, query, key, value, *mask, scale)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False, block_table=None,
):  # fmt: skip
    """flash_attn.flash_attn_varlen_func"""
    assert deterministic
    offsets = (cu_seqlens_q, cu_seqlens_k)
    lengths, window, causal = flash_mask(*offsets, max_seqlen_q, max_seqlen_k, causal, *window_size)
    out, lse = reference(q, k, v, lengths, window=window, causal=causal, scale=softmax_scale)
    return (out, lse.float().detach(), None) if return_attn_probs else out


def efficient_forward(
    query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
    custom_mask_type, compute_log_sumexp=False, *, scale=None, seqlen_k=None, window_size=None,
):  # fmt: skip
    """aten::_efficient_attention_forward: a batch of one, as many key heads as query heads, lse padded."""
    assert query.shape[0] == 1 and query.shape[2] == key.shape[2] and bias is None and dropout_p == 0
    assert compute_log_sumexp and custom_mask_type in (0, 1) and all(x.stride(-1) == 1 for x in (query, key))
    lengths = lengths_of(cu_seqlens_q)
    precise = (x[0].double() for x in (query, key, value))
    out, lse_HT = reference(*precise, lengths, causal=custom_mask_type == 1, scale=scale)
    padded = torch.full((len(lengths), query.shape[2], -(-max_seqlen_q // 32) * 32), math.inf)
    for row, (lse, length) in enumerate(zip(lse_HT.split(lengths, dim=1), lengths, strict=True)):
        padded[row, :, :length] = lse
    return out.to(query.dtype)[None], padded, torch.empty(0), torch.empty(0), max_seqlen_q, max_seqlen_k


def efficient_backward(
    grad_out, query, key, value, bias, out, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    logsumexp, dropout_p, philox_seed, philox_offset, custom_mask_type, bias_requires_grad, *,
    scale=None, num_splits_key=None, window_size=None, shared_storage_dqdkdv=False,
):  # fmt: skip
    """aten::_efficient_attention_backward"""
    _, lse, *_ = efficient_forward(
        query, key, value, bias, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
        custom_mask_type, True, scale=scale,
    )  # fmt: skip
    assert torch.equal(logsumexp, lse) and not bias_requires_grad and out.shape == grad_out.shape
    inputs = (x[0] for x in (grad_out, query, key, value))
    causal = custom_mask_type == 1
    gradients = gradients_of(*inputs, lengths_of(cu_seqlens_q), None, causal, scale)
    return *(each[None] for each in gradients), torch.empty(0)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flash, "forward_kernel", flash_forward)
    monkeypatch.setattr(torch_flash, "backward_kernel", flash_backward)
    monkeypatch.setattr(efficient, "forward_kernel", efficient_forward)
    monkeypatch.setattr(efficient, "backward_kernel", efficient_backward)
    package = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    # The rules know that there is no GPU.
    monkeypatch.setattr("hwsearch.kernels.attention._check_backend", lambda *call: None)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
@pytest.mark.parametrize("backend", ["flash_attn", "torch_flash", "efficient"])
def test_libraries_are_called_as_they_document(stand_ins: None, backend: str, rope: bool, name: str) -> None:
    lengths, options = BATCHES[name]
    check(lengths, {**options, "backend": backend}, torch.float32, "cpu", rope)


@pytest.mark.parametrize("backend", ["flash_attn", "torch_flash", "efficient", "sdpa", "cpu"])
def test_strided_heads_and_qkv_in_one_tensor(stand_ins: None, backend: str) -> None:
    lengths = [40, 9]
    torch.manual_seed(0)
    qkv = torch.randn(49, 3, 32, 2).transpose(2, 3).requires_grad_()
    cu_seqlens = torch.tensor([0, 40, 49])
    out = varlen_attention_qkvpacked(qkv, cu_seqlens, 40, window=5, backend=backend)
    precise = qkv.detach().double().requires_grad_()
    expected, _ = reference(*precise.unbind(1), lengths, window=5)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    (true,) = torch.autograd.grad(expected.square().sum(), precise)
    torch.testing.assert_close(gradient.double(), true, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (torch_flash, lambda p: (p.window, p.causal, p.scale)),
        (efficient, lambda p: (p.causal, p.scale)),
    ],
    ids=["torch_flash", "efficient"],
)
@pytest.mark.parametrize("causal", [False, True])
def test_operators_are_good_citizens(
    stand_ins: None, module: ModuleType, arguments: Callable[[Any], tuple[Any, ...]], causal: bool
) -> None:
    q, k, v, cu_seqlens, longest = batch([33, 8], torch.float32, groups=4)
    call = SimpleNamespace(window=-1, causal=causal, scale=0.2)
    torch.library.opcheck(module.operator, (q, k, v, cu_seqlens.to(torch.int32), longest, *arguments(call)))


@pytest.mark.parametrize(
    ("backend", "window"), [("triton", 16), ("torch_flash", None), ("efficient", None), ("efficient", 16)]
)
def test_compiled_whole_with_one_more_build_as_lengths_change(
    stand_ins: None, backend: str, window: int | None
) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Any:
        return varlen_attention(
            q, k, v, cu_seqlens, max_seqlen, window=window, backend=backend, return_lse=True
        )

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, fullgraph=True, backend=counter)
    for lengths in ([40, 30], [50, 20, 9], [60, 5, 1, 3]):
        arguments = batch(lengths, torch.float32)
        found, wanted = compiled(*arguments), attend(*arguments)
        torch.testing.assert_close(found, wanted)
        for a, b in zip(
            *(torch.autograd.grad(x[0].sum(), arguments[:3]) for x in (found, wanted)), strict=True
        ):
            torch.testing.assert_close(a, b)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("backend", ["sdpa", "cpu"])
def test_a_backend_that_reads_lengths_breaks_the_graph_but_is_not_built_again(backend: str) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        return 2 * varlen_attention(2 * q, k, v, cu_seqlens, max_seqlen, window=16, backend=backend)

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend, backend=counter)
    built = []
    for lengths in ([20, 30], [40, 20, 9], [41, 5, 1, 3]):
        arguments = batch(lengths, torch.float32)
        torch.testing.assert_close(compiled(*arguments), attend(*arguments))
        built.append(counter.frame_count)
    assert built[-1] == built[1]


def test_long_rows_of_scores_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwsearch.kernels.backends.log_sum_exp.SCORES_AT_A_TIME", 64)
    q, k = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    visible = torch.randn(1, 9, 9) < 1
    visible.diagonal(dim1=1, dim2=2).fill_(True)
    scores = 0.3 * q @ k.repeat_interleave(2, dim=1).mT
    expected = scores.masked_fill(~visible[:, None], -math.inf).logsumexp(-1)
    torch.testing.assert_close(log_sum_exp(q, k, visible, 0.3), expected)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_autocast_casts_as_sdpa_does(backend: str, compiled: bool) -> None:
    q, k, v, cu_seqlens, longest = batch([20, 9], torch.float32)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return varlen_attention(q, k, v, cu_seqlens, longest, window=4, backend=backend)

    torch._dynamo.reset()
    run = torch.compile(attend, fullgraph=backend == "triton", backend="aot_eager") if compiled else attend
    out = run(q, k.half(), v)
    expected = varlen_attention(
        *(x.bfloat16() for x in (q, k.half(), v)), cu_seqlens, longest, window=4, backend=backend
    )
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.float().sum(), (q, k, v)))


def test_autocast_leaves_float64_alone() -> None:
    q, k, v, cu_seqlens, longest = batch([20, 9], torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = varlen_attention(q, k, v, cu_seqlens, longest, return_lse=True)
    expected = reference(q, k, v, [20, 9])
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, expected[1].float(), rtol=0, atol=1e-6)


def test_a_schedule_is_for_its_batch() -> None:
    q, k, v, cu_seqlens, longest = batch([20, 9], torch.float32)
    schedule = attention_schedule(cu_seqlens, 29, 29)
    plain = varlen_attention(q, k, v, cu_seqlens, longest, backend="triton")
    assert torch.equal(
        varlen_attention(q, k, v, cu_seqlens, longest, backend="triton", schedule=schedule), plain
    )
    for bad in (schedule[:2], schedule.long(), schedule[:, :-1], schedule.to("meta"), 3):
        with pytest.raises(ValueError, match=r"^schedule:"):
            varlen_attention(q, k, v, cu_seqlens, longest, backend="triton", schedule=bad)
    with pytest.raises(ValueError, match=r"^cu_seqlens:"):
        attention_schedule(torch.tensor([0, 9, 5, 29]), 29, 29)


def test_a_problem_is_plain() -> None:
    """Backends see checked values only: a window that an int32 holds, a float scale."""
    seen: list[Problem] = []
    q, k, v, cu_seqlens, longest = batch([4], torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsearch.kernels.backends.sdpa.attend", lambda q, k, v, p: (seen.append(p) or q, None))
        varlen_attention(q, k, v, cu_seqlens, longest, window=2**60, scale=1, backend="sdpa")
    assert seen[0].window == 2**30 - 1 and type(seen[0].scale) is float
