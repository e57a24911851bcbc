"""varlen_attention against plain float64 loops, on awkward lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwsearch.kernels import varlen_attention, varlen_attention_qkvpacked
from hwsearch.kernels.backends.band import band_scores

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def reference(q, k, v, lengths, window=None, causal=False, scale=None, rope=None) -> Tensor:
    """One sequence, one head, one explicit mask at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    scale = 1 / math.sqrt(q.shape[2]) if scale is None else scale
    out, start = torch.zeros_like(q), 0
    for s in lengths:
        part = slice(start, start + s)
        start += s
        for head in range(heads):
            qs, ks, vs = q[part, head], k[part, head // group], v[part, head // group]
            if rope is not None:
                qs, ks = turned(qs, rope), turned(ks, rope)
            scores = scale * qs @ ks.T
            for i in range(s):
                first = 0 if window is None else max(0, i - window)
                last = i if causal else s - 1 if window is None else i + window
                scores[i, :first] = -math.inf
                scores[i, last + 1 :] = -math.inf
            out[part, head] = scores.softmax(-1) @ vs
    return out


def turned(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotation as a complex product: element d is the real part, d + D/2 the imaginary one."""
    cos, sin = (table.double()[: len(x)] for table in rope)
    half = x.shape[1] // 2
    z = torch.complex(x[:, :half], x[:, half:]) * torch.complex(cos, sin)
    return torch.cat((z.real, z.imag), dim=1)


def inputs(lengths, heads=2, kv_heads=2, size=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    q = torch.randn(tokens, heads, size, generator=generator, dtype=torch.float64).to(dtype)
    k, v = (
        torch.randn(tokens, kv_heads, size, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(2)
    )
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return q, k, v, cu_seqlens


def rope_tables(length: int, size: int) -> tuple[Tensor, Tensor]:
    angle = torch.outer(torch.arange(length).double(), 100.0 ** -(torch.arange(size // 2) / (size // 2)))
    return angle.cos(), angle.sin()


WEIRD = [
    [1],
    [0, 1, 0, 2, 0],
    [63, 64, 65],
    [127, 1, 129, 128],
    [200, 0, 3, 200, 17, 3],
    [300],
]


@pytest.mark.parametrize("lengths", WEIRD, ids=str)
@pytest.mark.parametrize("window", [None, 0, 1, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weird_lengths(lengths, window, dtype):
    q, k, v, cu = inputs(lengths, heads=1, kv_heads=1, dtype=dtype)
    out = varlen_attention(q, k, v, cu, max(lengths), window=window)
    assert out.dtype == dtype
    error = (out.double() - reference(q, k, v, lengths, window)).abs().max()
    assert error < TOLERANCE[dtype]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda x: sum(x) > 0),
    window=st.none() | st.integers(0, 45),
    causal=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
    with_rope=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    repeats=st.integers(1, 3),
)
def test_any_combination_in_float64(lengths, window, causal, kv_heads, with_rope, scale, repeats):
    lengths = lengths * repeats
    q, k, v, cu = inputs(lengths, heads=4, kv_heads=kv_heads, size=4, dtype=torch.float64)
    rope = rope_tables(max(lengths) + 3, 4) if with_rope else None
    options = {"window": window, "causal": causal, "scale": scale, "rope": rope}
    out = varlen_attention(q, k, v, cu, max(lengths), **options)
    torch.testing.assert_close(out, reference(q, k, v, lengths, **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "window"), [(300, 64), (129, 64), (131, 64), (400, 5)])
def test_window_shows_exactly_its_keys(length, window):
    """Which keys a query reads, by the gradient of its output: both edges, 129 keys for 64."""
    q, k, v, cu = inputs([7, length], heads=1, kv_heads=1)
    v.requires_grad_()
    for query in (0, window - 1, window, window + 1, length // 2, length - 1):
        out = varlen_attention(q, k, v, cu, length, window=window)
        (gradient,) = torch.autograd.grad(out[7 + query].sum(), v)
        seen = gradient.abs().sum(dim=(1, 2)).nonzero().flatten().tolist()
        low, high = max(0, query - window), min(length - 1, query + window)
        assert seen == list(range(7 + low, 7 + high + 1))
    if length == 300:
        middle = varlen_attention(q, k, v, cu, length, window=window)[7 + 150].sum()
        (gradient,) = torch.autograd.grad(middle, v)
        assert int((gradient.abs().sum(dim=(1, 2)) > 0).sum()) == 129


@pytest.mark.parametrize("window", [None, 3, 64])
@pytest.mark.parametrize("lengths", [[5, 0, 5, 9], [200, 70]], ids=str)
def test_gradients(lengths, window):
    q, k, v, cu = inputs(lengths, heads=2, kv_heads=1, size=4, dtype=torch.float64)
    rope = rope_tables(max(lengths), 4)
    weight = torch.randn(q.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for x in (q, k, v):
        x.requires_grad_()
    ours = (varlen_attention(q, k, v, cu, max(lengths), window=window, rope=rope) * weight).sum()
    found = torch.autograd.grad(ours, (q, k, v))
    expected = torch.autograd.grad(
        (reference_masked(q, k, v, lengths, window, rope) * weight).sum(), (q, k, v)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def reference_masked(q, k, v, lengths, window, rope) -> Tensor:
    """All tokens against all tokens with one dense mask: differentiable, and plainly right."""
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.cat([torch.arange(s) for s in lengths])
    visible = sequence[:, None] == sequence[None, :]
    if window is not None:
        visible &= (place[:, None] - place[None, :]).abs() <= window
    cos, sin = (table[place][:, None] for table in rope)
    half = q.shape[-1] // 2
    q, k = (
        torch.cat((x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin), -1)
        for x in (q, k)
    )
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~visible, -math.inf).softmax(-1), v)


def test_long_sequences_skip_what_the_window_hides():
    """8192 tokens under window 64: 3 keys computed for each query of a 64-block, not 128 x 64."""
    assert band_scores([8192], 64) == 8192 * 192
    q, k, v, cu = inputs([8192], heads=1, kv_heads=1, size=4)
    with torch.profiler.profile(profile_memory=True) as profile:
        varlen_attention(q, k, v, cu, 8192, window=64)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 8192 * 8192 / 4  # a dense bool mask alone is 8192 * 8192 bytes


def test_no_tokens_at_all():
    q = torch.zeros(0, 2, 8)
    for cu in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        assert varlen_attention(q, q, q, cu, 0, window=3).shape == (0, 2, 8)


def test_noncontiguous_projection_is_read_as_it_lies():
    lengths = [9, 70, 9]
    qkv = torch.randn(sum(lengths), 3, 2, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = qkv.unbind(1)
    cu = torch.tensor([0, 9, 79, 88])
    for window in (None, 4):
        out = varlen_attention(q, k, v, cu, 70, window=window)
        torch.testing.assert_close(
            out.double(), reference(q, k, v, lengths, window), rtol=0, atol=TOLERANCE[torch.float32]
        )


ROPE = torch.zeros(6, 4)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("q", {"q": torch.zeros(6, 8)}),
        ("q", {"q": [[0.0]]}),
        ("q", {"q": torch.zeros(6, 2, 8, dtype=torch.int64)}),
        ("q", {"q": torch.zeros(6, 2, 8, dtype=torch.float8_e4m3fn)}),
        ("q", {"q": torch.zeros(6, 2, 8, dtype=torch.complex64)}),
        ("q", {"q": torch.zeros(6, 0, 8)}),
        ("q", {"q": torch.zeros(6, 2, 0), "k": torch.zeros(6, 2, 0), "v": torch.zeros(6, 2, 0)}),
        ("k", {"k": torch.zeros(5, 2, 8)}),
        ("k", {"k": torch.zeros(6, 2, 4)}),
        ("k", {"k": torch.zeros(6, 2, 8, dtype=torch.float64)}),
        ("k", {"k": torch.zeros(6, 2, 8, device="meta")}),
        ("k", {"k": torch.zeros(6, 3, 8), "v": torch.zeros(6, 3, 8)}),
        ("k", {"k": torch.zeros(6, 0, 8), "v": torch.zeros(6, 0, 8)}),
        ("v", {"v": torch.zeros(6, 1, 8)}),
        ("cu_seqlens", {"cu_seqlens": [0, 2, 6]}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 4])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([1, 6])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 5, 3, 6])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, 7, 6])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0, -1, 6])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([0.0, 6.0])}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([], dtype=torch.int32)}),
        ("cu_seqlens", {"cu_seqlens": torch.tensor([[0, 2, 6]])}),
        ("cu_seqlens", {"cu_seqlens": torch.zeros(3, dtype=torch.int64, device="meta")}),
        ("max_seqlen", {"max_seqlen": 3}),
        ("max_seqlen", {"max_seqlen": -1}),
        ("max_seqlen", {"max_seqlen": 2**30}),
        ("max_seqlen", {"max_seqlen": 4.0}),
        ("max_seqlen", {"max_seqlen": True}),
        ("max_seqlen", {"max_seqlen": torch.tensor(4)}),
        ("window", {"window": -1}),
        ("window", {"window": (2, 2)}),
        ("window", {"window": False}),
        ("causal", {"causal": 1}),
        ("causal", {"causal": None}),
        ("return_lse", {"return_lse": "yes"}),
        ("scale", {"scale": 0.0}),
        ("scale", {"scale": -1}),
        ("scale", {"scale": math.nan}),
        ("scale", {"scale": math.inf}),
        ("scale", {"scale": "1"}),
        ("scale", {"scale": True}),
        ("scale", {"scale": [1.0]}),
        ("scale", {"scale": 10**400}),
        ("rope", {"rope": ROPE}),
        ("rope", {"rope": (ROPE,)}),
        ("rope", {"rope": (ROPE, None)}),
        ("rope", {"rope": (ROPE[:3], ROPE[:3])}),
        ("rope", {"rope": (ROPE, torch.zeros(6, 8))}),
        ("rope", {"rope": (ROPE, ROPE.to("meta"))}),
        ("rope", {"rope": (ROPE, ROPE.int())}),
        ("schedule", {"schedule": torch.zeros(4, 3, 3)}),
        ("backend", {"backend": "fastest"}),
        ("backend", {"backend": "flash_attn"}),
        ("backend", {"backend": "torch_flash"}),
        ("backend", {"backend": "efficient"}),
        ("backend", {"backend": "triton"}),
    ],
)
def test_bad_arguments_are_named(argument, change):
    x = torch.zeros(6, 2, 8)
    arguments = {"q": x, "k": x, "v": x, "cu_seqlens": torch.tensor([0, 2, 6]), "max_seqlen": 4} | change
    with pytest.raises(ValueError, match=f"^{argument}:"):
        varlen_attention(**arguments)


@pytest.mark.parametrize(
    "qkv",
    [
        torch.zeros(6, 2, 2, 8),
        torch.zeros(6, 6, 8),
        torch.zeros(6, 3, 2, 8).int(),
        torch.zeros(6, 3, 0, 8),
        None,
    ],
    ids=["two tensors", "three dimensions", "integers", "no heads", "none"],
)
def test_bad_qkv_is_named(qkv):
    with pytest.raises(ValueError, match=r"^qkv:"):
        varlen_attention_qkvpacked(qkv, torch.tensor([0, 6]), 6)


def test_odd_heads_do_not_rotate():
    x = torch.zeros(6, 2, 7)
    with pytest.raises(ValueError, match=r"^rope: head size 7 is odd"):
        varlen_attention(x, x, x, torch.tensor([0, 6]), 6, rope=(ROPE, ROPE))


def test_a_refused_backend_says_why_and_what_is_accepted():
    x = torch.zeros(6, 2, 20, dtype=torch.float64)
    refusal = r"^backend: 'torch_flash': it runs on CUDA GPUs; accepted here: sdpa, cpu$"
    with pytest.raises(ValueError, match=refusal):
        varlen_attention(x, x, x, torch.tensor([0, 6]), 6, backend="torch_flash")


def test_integers_of_numpy_are_integers():
    q, k, v, cu = inputs([3, 9])
    expected = varlen_attention(q, k, v, cu, 9, window=2, scale=0.5)
    found = varlen_attention(q, k, v, cu, np.int64(9), window=np.int32(2), scale=np.float32(0.5))
    assert torch.equal(found, expected)


def test_compiled_code_asserts_offsets_that_it_cannot_read():
    """Where values are not read, a wrong one is an error all the same, and never an answer."""
    q, k, v, cu = inputs([4, 8], size=32)

    def attend(cu_seqlens, max_seqlen):
        return varlen_attention(q, k, v, cu_seqlens, max_seqlen, window=2, backend="triton")

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(cu, 8), attend(cu, 8))
    for argument, bad in (
        ("cu_seqlens", [0, 4, 11]),
        ("cu_seqlens", [0, 13, 12]),
        ("cu_seqlens", [1, 4, 12]),
        ("max_seqlen", [0, 2, 12]),
    ):
        with pytest.raises(ValueError, match=f"^{argument}:"):
            compiled(torch.tensor(bad, dtype=torch.int32), 8)
