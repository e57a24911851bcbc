"""The Triton kernels compiled, at real sizes: right, deterministic, without host waits, in CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from attention_truth import Case, error, ours, pytorch, truth, with_gradients

from hwsearch.kernels import attention_schedule, varlen_attention_qkvpacked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
OUTPUTS = ("out", "lse", "dq", "dk", "dv")
HEADS, SIZE = 4, 64


def drawn(count: int, longest: int, seed: int = 0) -> tuple[int, ...]:
    """Lengths from 0 to `longest`, which occurs."""
    generator = torch.Generator().manual_seed(seed)
    return (longest, *torch.randint(0, longest + 1, (count - 1,), generator=generator).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize(("count", "longest"), [(3, 8192), (64, 1024), (500, 64)])
def test_as_right_as_pytorch(dtype, size, window, count, longest):
    case = Case(drawn(count, longest), dtype, size, heads=2, key_heads=1, window=window, rope=True)
    (dout,) = case.random(case.heads, seed=1)
    inputs = case.qkv()
    found, peer, right = (with_gradients(f, *inputs, case, dout) for f in (ours, pytorch, truth))
    for name in OUTPUTS:
        assert error(found[name], right[name]) <= 2 * error(peer[name], right[name]) + 1e-5, name


@pytest.mark.parametrize("window", [None, 64])
def test_ten_runs_give_the_same_bits(window):
    case = Case(drawn(64, 2048), torch.bfloat16, SIZE, HEADS, 2, window, rope=True)
    (dout,) = case.random(case.heads, seed=1)
    inputs = case.qkv()
    first = with_gradients(ours, *inputs, case, dout)
    for _ in range(9):
        again = with_gradients(ours, *inputs, case, dout)
        assert all(torch.equal(first[name], again[name]) for name in OUTPUTS)


def attend(qkv, cu_seqlens, max_seqlen, rope, window=None):
    schedule = attention_schedule(cu_seqlens, qkv.shape[0], max_seqlen)
    return varlen_attention_qkvpacked(
        qkv, cu_seqlens, max_seqlen, window=window, rope=rope, backend="triton", schedule=schedule
    )


def packed(case: Case, seed: int = 0) -> torch.Tensor:
    return torch.stack(case.random(HEADS, HEADS, HEADS, seed=seed), dim=1)


@pytest.mark.parametrize("window", [None, 64])
def test_nothing_waits_for_the_gpu(window):
    case = Case(drawn(16, 700), torch.bfloat16, SIZE, window=window, rope=True)
    cu, rope = case.cu_seqlens(), case.rope_tables()
    qkv = packed(case).requires_grad_()
    dout = torch.ones(case.tokens, HEADS, SIZE, dtype=case.dtype, device="cuda")
    # The first call compiles.
    attend(qkv, cu, case.max_seqlen, rope, window).backward(dout)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        attend(qkv, cu, case.max_seqlen, rope, window).backward(dout)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("window", "longest"), [(None, 1000), (64, 1000), (None, 64)])
def test_a_cuda_graph_replays_other_lengths(window, longest):
    """Captured for some offsets; then others, as many and of as many tokens, are copied in."""
    recorded = Case((longest, longest - 7, 3, 0), torch.bfloat16, SIZE, window=window, rope=True)
    others = [
        (longest - 3, 0, longest - 5, 4),
        (3, 0, longest - 7, longest),
        (longest - 4, longest - 4, 1, 3),
    ]
    cu, rope = recorded.cu_seqlens(), recorded.rope_tables()
    qkv = packed(recorded).requires_grad_()
    dout = packed(recorded, seed=1)[:, 0].contiguous()

    def run():
        out = attend(qkv, cu, longest, rope, window)
        return out, torch.autograd.grad(out, qkv, dout)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, gradient = run()
    for lengths in (recorded.lengths, *others):
        spare = longest - max(lengths)
        case = Case(lengths, torch.bfloat16, SIZE, HEADS, HEADS, window, rope=True, spare=spare)
        assert case.tokens == recorded.tokens
        cu.copy_(case.cu_seqlens())
        graph.replay()
        eager = run()
        assert torch.equal(out, eager[0])
        assert torch.equal(gradient, eager[1])
        inputs = qkv.detach().unbind(1)
        right = with_gradients(truth, *inputs, case, dout)
        assert error(out, right["out"]) < 2e-2
        assert error(gradient[:, 2], right["dv"]) < 1e-1


@pytest.mark.parametrize("window", [None, 64])
def test_compiled_by_inductor(window):
    """One graph, at most one recompile as lengths change, the answers of eager."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")

    def model(x, weight, cu, max_seqlen, rope):
        qkv = (x @ weight).view(-1, 3, HEADS, SIZE)
        return attend(qkv, cu, max_seqlen, rope, window).flatten(1) @ weight[:, : HEADS * SIZE]

    compiled = torch.compile(model, backend=counter, fullgraph=True)
    weight = torch.randn(HEADS * SIZE, 3 * HEADS * SIZE, device="cuda", dtype=torch.bfloat16) / 16
    weight.requires_grad_()
    for lengths in ((100, 5, 64), (300, 2), (700, 0, 31, 9), (90,)):
        case = Case(lengths, torch.bfloat16, SIZE, rope=True, spare=1024 - max(lengths))
        x = torch.randn(case.tokens, HEADS * SIZE, device="cuda", dtype=torch.bfloat16)
        results = []
        for f in (compiled, model):
            out = f(x, weight, case.cu_seqlens(), max(lengths), case.rope_tables())
            results.append((out, torch.autograd.grad(out.float().square().mean(), weight)[0]))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)
    assert counter.frame_count <= 2
