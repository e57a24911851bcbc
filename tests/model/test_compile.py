"""torch.compile: batches of other lengths do not compile the model again."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import hwsearch.model.encoder
from hwsearch.model import MaskedLanguageModel
from hwsearch.model.compiling import compile_for_all_sizes
from hwsearch.model.encoder import positions_in_sequences
from hwsearch.shape import parse_shape

# Sequences, tokens and predictions of a batch: all vary, the row's longest sequence is stated alike.
BATCHES = [[40, 30, 7], [12], [64, 1, 20, 20, 11], [33, 5, 64, 2, 2]]
LONGEST = 64


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    # What a test sets is taken back; pytest's own way of it would leave the setting deleted.
    with torch._dynamo.config.patch(specialize_float=False, recompile_limit=8):
        yield
    torch._dynamo.reset()


def traceable_attention(qkv, cu_seqlens, max_seqlen, *, window, rope, backend, schedule):
    """As a GPU's backends: one graph, and no look at the lengths."""
    place = positions_in_sequences(qkv.shape[0], cu_seqlens)
    start = torch.arange(qkv.shape[0]) - place
    q, k, v = qkv.unbind(1)
    if rope is not None:
        cos, sin = (table[place][:, None] for table in rope)
        q, k = (
            torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (x.chunk(2, -1) for x in (q, k))
        )
    shown = start[:, None] == start
    if window is not None:
        shown = shown & ((place[:, None] - place).abs() <= window)
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~shown, -torch.inf).softmax(-1), v)


def loss_of(model, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 100, (sum(lengths),), generator=generator)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    positions = torch.arange(0, len(tokens), 3)
    return model(tokens, offsets, LONGEST, positions, tokens[positions])


def model_of(options: str) -> MaskedLanguageModel:
    torch.manual_seed(0)
    return MaskedLanguageModel(parse_shape(f"{options}L2-h32-a2-i48-v100-w16-p64"))


@pytest.mark.parametrize(
    ("options", "recompute"), [("", False), ("", True), ("+position=learned+norm_order=post:", False)]
)
def test_a_handful_of_lengths_are_two_graphs_at_most(options, recompute, monkeypatch):
    monkeypatch.setattr(hwsearch.model.encoder, "varlen_attention_qkvpacked", traceable_attention)
    model = model_of(options)
    model.recompute = recompute
    expected = [loss_of(model, lengths).item() for lengths in BATCHES]
    counter = CompileCounterWithBackend("aot_eager" if recompute else "eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for lengths, value in zip(BATCHES, expected, strict=True):
        loss = loss_of(compiled, lengths)
        loss.backward()
        assert loss.item() == pytest.approx(value, rel=1e-5)
    assert counter.frame_count <= 2


def test_a_changed_theta_compiles_once_more_at_most(monkeypatch):
    monkeypatch.setattr(hwsearch.model.encoder, "varlen_attention_qkvpacked", traceable_attention)
    model = model_of("")
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for theta in (10_000.0, 160_000.0):
        model.set_rope_theta(theta)
        for lengths in BATCHES[::2]:
            assert loss_of(compiled, lengths).item() == pytest.approx(loss_of(model, lengths).item())
    assert counter.frame_count <= 2


def test_compiled_for_all_sizes_the_model_is_traced_once(monkeypatch):
    """Norms' eps and the rotation's bases are no variables, for which all of it would be traced twice."""
    monkeypatch.setattr(hwsearch.model.encoder, "varlen_attention_qkvpacked", traceable_attention)
    counter = CompileCounterWithBackend("aot_eager")
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_in_place(self, backend=counter, **options)
    )
    model = model_of("")
    expected = [loss_of(model, lengths).item() for lengths in BATCHES]
    compile_for_all_sizes(model)
    assert [loss_of(model, lengths).item() for lengths in BATCHES] == pytest.approx(expected, rel=1e-5)
    assert counter.frame_count == 1


def test_functions_of_many_kinds_of_calls_are_compiled_for_each(monkeypatch):
    """As the function that all layers share, where eight kinds are torch's limit."""

    class Kinds(torch.nn.Module):
        def forward(self, x, kind):
            return x + len(kind) if kind.startswith("a") else x

    counter = CompileCounterWithBackend("eager")
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_in_place(self, backend=counter, **options)
    )
    module = Kinds()
    compile_for_all_sizes(module)
    for size in range(1, 13):
        assert module(torch.zeros(2), "a" * size).sum() == 2 * size
    assert counter.frame_count == 12


def test_the_attention_of_cpus_breaks_graphs_but_compiles_no_more_after_some_batches():
    model = model_of("")
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    counts = []
    for lengths in BATCHES:
        assert loss_of(compiled, lengths).item() == pytest.approx(loss_of(model, lengths).item(), rel=1e-5)
        counts.append(counter.frame_count)
    assert counts[-1] == counts[-2]
