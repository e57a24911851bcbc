"""torch.compile(fullgraph=True) of a model on the Triton kernels: at most one recompile, same answers."""

from __future__ import annotations

import pytest
import torch
from attention_truth import DEVICE, Case
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend

from hwsearch.kernels import attention_schedule, varlen_attention_qkvpacked

HEADS, SIZE, LAYERS = 1, 32, 3
BATCHES = [(5, 0, 12), (3, 9, 2, 17), (14,), (70, 2)]


class Model(nn.Module):
    """Global and local layers with residuals; `shared`: one schedule for all of them."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.into = nn.ModuleList(nn.Linear(HEADS * SIZE, 3 * HEADS * SIZE) for _ in range(LAYERS))

    def forward(self, x: Tensor, cu_seqlens: Tensor, max_seqlen: int, rope: tuple[Tensor, Tensor]) -> Tensor:
        schedule = attention_schedule(cu_seqlens, x.shape[0], max_seqlen) if self.shared else None
        for layer, into in enumerate(self.into):
            x = x + varlen_attention_qkvpacked(
                into(x).view(-1, 3, HEADS, SIZE), cu_seqlens, max_seqlen, window=4 if layer % 2 else None,
                rope=rope, backend="triton", schedule=schedule,
            ).flatten(1)  # fmt: skip
        return x


def step(model, reference: Model, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(out, gradient of the first layer's weight) for one batch."""
    case = Case(lengths, size=SIZE, rope=True, spare=128 - max(lengths))
    x = torch.randn(case.tokens, HEADS * SIZE, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    out = model(x, case.cu_seqlens(), max(lengths), case.rope_tables())
    weight = reference.into[0].weight
    (gradient,) = torch.autograd.grad(out.square().mean(), weight)
    return out.detach(), gradient


@pytest.mark.parametrize(("backend", "shared"), [("aot_eager", False), ("inductor", True)])
def test_one_graph_and_one_recompile(backend, shared):
    torch._dynamo.reset()
    model = Model(shared).to(DEVICE)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for lengths in BATCHES:
        found, right = step(compiled, model, lengths), step(model, model, lengths)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 2


def test_without_a_schedule_the_compiled_graph_builds_it_once():
    """By common subexpressions; eager code builds it for every layer."""
    counts = []

    def count(graph, _):
        nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
        counts.append(sum("attention_schedule" in str(node.target) for node in nodes))
        return make_boxed_func(graph)

    torch._dynamo.reset()
    model = Model(shared=False).to(DEVICE)
    backend = aot_autograd(fw_compiler=count, partition_fn=min_cut_rematerialization_partition)
    step(torch.compile(model, backend=backend, fullgraph=True), model, (5, 12))
    assert counts == [1, 0]
