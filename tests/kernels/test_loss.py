"""Loss and gradients against plain float64 torch, and no tensor as large as the logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hwsearch.kernels import loss as module
from hwsearch.kernels.loss import linear_cross_entropy, masked_lm_loss, masked_positions

ROWS, WIDTH, WORDS = 37, 16, 211
# Of the largest entry; a bf16 gradient is a product of two numbers of 8 bits, summed over rows.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def case(dtype=torch.float32, rows=ROWS, seed=0, ignored=()):
    draw = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(size, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for size in ((rows, WIDTH), (WORDS, WIDTH), (WORDS,))
    )
    labels = torch.randint(0, WORDS, (rows,), generator=draw)
    labels[list(ignored)] = -100
    return hidden, weight, labels, bias


def truth(hidden, weight, labels, bias, reduction):
    """F.cross_entropy in float64, with the gradients by every float; a mean of nothing is 0."""
    exact = [x if x is None else x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    total = F.cross_entropy(F.linear(*exact), labels, reduction="sum")
    if reduction == "mean":
        total = total / max(int((labels != -100).sum()), 1)
    return total, torch.autograd.grad(total, [x for x in exact if x is not None])


def check(value, gradients, expected, expected_gradients, tolerance):
    assert abs(value.item() - expected.item()) <= tolerance * max(abs(expected.item()), 1)
    assert len(gradients) == len(expected_gradients)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk_rows", [None, 1, 8, ROWS])
def test_loss_and_gradients(dtype, reduction, chunk_rows):
    hidden, weight, labels, bias = case(dtype, ignored=[0, 7, 8, 36])
    value = linear_cross_entropy(hidden, weight, labels, bias, reduction=reduction, chunk_rows=chunk_rows)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    gradients = torch.autograd.grad(value, (hidden, weight, bias))
    assert [x.dtype for x in gradients] == [dtype] * 3
    check(value, gradients, *truth(hidden, weight, labels, bias, reduction), TOLERANCE[dtype])


def test_without_a_bias_and_with_frozen_weights():
    hidden, weight, labels, _ = case()
    value = linear_cross_entropy(hidden, weight.detach(), labels, chunk_rows=8)
    expected, (by_hidden, _) = truth(hidden, weight, labels, None, "mean")
    check(value, torch.autograd.grad(value, hidden), expected, (by_hidden,), 3e-6)


def test_large_logits_do_not_overflow():
    hidden, weight, labels, bias = case()
    with torch.no_grad():
        hidden *= 1e3
    value = linear_cross_entropy(hidden, weight, labels, bias)
    check(
        value,
        torch.autograd.grad(value, (hidden, weight, bias)),
        *truth(hidden, weight, labels, bias, "mean"),
        1e-5,
    )


@pytest.mark.parametrize("ignored", [range(ROWS), None])
def test_nothing_to_predict(ignored):
    """All labels -100, or no row at all: loss 0 and gradients 0."""
    hidden, weight, labels, bias = case(rows=ROWS if ignored else 0, ignored=ignored or ())
    value = linear_cross_entropy(hidden, weight, labels, bias)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, (hidden, weight, bias)):
        assert not gradient.any()


def test_ignored_rows_may_hold_anything_finite_and_change_nothing():
    hidden, weight, labels, bias = case(ignored=[3])
    first = linear_cross_entropy(hidden, weight, labels, bias)
    with torch.no_grad():
        hidden[3] = 1e4
    assert torch.equal(first, linear_cross_entropy(hidden, weight, labels, bias))


def test_a_tied_embedding_gets_both_gradients_and_accumulates():
    draw = torch.Generator().manual_seed(3)
    embedding = torch.randn(WORDS, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, WORDS, (ROWS,), generator=draw)

    def ours():
        return linear_cross_entropy(embedding[tokens], embedding, tokens.flip(0), chunk_rows=8)

    (expected,) = torch.autograd.grad(
        F.cross_entropy(embedding[tokens] @ embedding.T, tokens.flip(0)), embedding
    )
    ours().backward()
    assert torch.allclose(embedding.grad, expected, rtol=0, atol=1e-14)
    (ours() * 3).backward()
    assert torch.allclose(embedding.grad, 4 * expected, rtol=0, atol=1e-13)


def test_backward_twice_through_one_loss():
    hidden, weight, labels, bias = case()
    value = linear_cross_entropy(hidden, weight, labels, bias)
    first = torch.autograd.grad(value, weight, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(value * 2, weight)[0], 2 * first)


def test_a_second_derivative_raises():
    hidden, weight, labels, bias = case()
    value = linear_cross_entropy(hidden, weight, labels, bias)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(value, hidden, create_graph=True)


def test_sums_of_micro_batches_are_the_whole():
    hidden, weight, labels, bias = case(torch.float64)
    (whole,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, bias), weight)
    for rows in (slice(0, 10), slice(10, ROWS)):
        part = linear_cross_entropy(hidden[rows], weight, labels[rows], bias, reduction="sum")
        (part / ROWS).backward()
    assert torch.allclose(weight.grad, whole, rtol=0, atol=1e-14)


def test_a_loss_scale_reaches_small_half_precision_gradients():
    """softmax / P underflows in fp16; the scale of a GradScaler is applied to the sums."""
    hidden, weight, labels, bias = case(torch.float16)
    scaled = linear_cross_entropy(hidden, weight, labels, bias) * 1024
    expected = truth(hidden, weight, labels, bias, "mean")[1][2] * 1024
    (gradient,) = torch.autograd.grad(scaled, bias)
    assert (gradient - expected).abs().max() < 3e-3 * expected.abs().max()


def test_autocast_products_in_bf16_gradients_in_float32():
    hidden, weight, labels, bias = case()
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_cross_entropy(hidden, weight, labels, bias)
    gradients = torch.autograd.grad(value, (hidden, weight, bias))
    assert value.dtype == torch.float32 and {x.dtype for x in gradients} == {torch.float32}
    exact = truth(hidden, weight, labels, bias, "mean")
    check(value, gradients, *exact, 2e-2)
    assert (gradients[1] - exact[1][1]).abs().max() > 1e-5  # they did run in bf16


@settings(max_examples=20, deadline=None)
@given(data=st.data(), tokens=st.integers(0, 40))
def test_masked_lm_loss_is_that_of_all_positions(data, tokens):
    chosen = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    masked = data.draw(st.none() | st.integers(sum(chosen), tokens + 3))
    hidden, weight, labels, bias = case(
        torch.float64, tokens, ignored=[i for i, is_label in enumerate(chosen) if not is_label]
    )
    value = masked_lm_loss(hidden, weight, labels, bias, masked=masked)
    gradients = torch.autograd.grad(value, (hidden, weight, bias))
    for ours, theirs in zip(gradients, truth(hidden, weight, labels, bias, "mean")[1], strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_masked_lm_loss_takes_batches():
    hidden, weight, labels, bias = case(ignored=range(0, ROWS - 1, 2), rows=36)
    flat = masked_lm_loss(hidden, weight, labels, bias)
    assert torch.equal(flat, masked_lm_loss(hidden.view(4, 9, WIDTH), weight, labels.view(4, 9), bias))


def test_masked_positions_are_filled_up():
    labels = torch.tensor([-100, 5, -100, 0])
    assert masked_positions(labels).tolist() == [1, 3]
    assert masked_positions(labels, 3).tolist() == [1, 3, -1]


class Largest(TorchDispatchMode):
    """The most elements of a tensor that any operator returned, inside of ours too."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.hwsearch.linear_cross_entropy.default:
            with self:
                return module.by_chunks(*args)
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, list | tuple) else [out]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def largest(function):
    with Largest() as seen:
        function().backward()
    return seen.elements


def test_logits_exist_for_a_chunk_of_masked_positions_only():
    tokens, predicted, rows = 400, 120, 40
    hidden, weight, labels, bias = case(rows=tokens, ignored=range(predicted, tokens))
    whole = largest(lambda: F.cross_entropy(F.linear(hidden, weight, bias), labels))
    assert whole == tokens * WORDS  # the count sees what it should see
    masked = largest(lambda: masked_lm_loss(hidden, weight, labels, bias, masked=predicted))
    assert masked == predicted * WORDS
    chunked = largest(lambda: masked_lm_loss(hidden, weight, labels, bias, chunk_rows=rows))
    assert chunked == rows * WORDS > tokens * WIDTH


def test_default_chunks_hold_a_bounded_number_of_logits():
    for words in (1, 1024, 50_368, 256_000, 2**30):
        rows = module._chunk_rows(words)
        assert rows % 256 == 0 and rows >= 256
        assert rows == 256 or rows * words <= 2**27


def test_compiles_whole_and_lengths_recompile_at_most_once():
    torch._dynamo.reset()
    compiled = 0

    def count(graph, inputs):
        nonlocal compiled
        compiled += 1
        return graph.forward

    step = torch.compile(linear_cross_entropy, fullgraph=True, backend=count)
    for rows in (37, 24, 61, 5):
        arguments = case(rows=rows)
        assert torch.equal(step(*arguments), linear_cross_entropy(*arguments))
    assert compiled <= 2


def test_compiled_gradients():
    torch._dynamo.reset()
    hidden, weight, labels, bias = case(ignored=[1, 2])
    step = torch.compile(lambda *xs: masked_lm_loss(*xs, masked=ROWS), fullgraph=True, backend="aot_eager")
    value = step(hidden, weight, labels, bias)
    check(
        value,
        torch.autograd.grad(value, (hidden, weight, bias)),
        *truth(hidden, weight, labels, bias, "mean"),
        3e-6,
    )


@pytest.mark.parametrize("with_bias", [False, True])
def test_operator_passes_opcheck(with_bias):
    hidden, weight, labels, bias = case()
    torch.library.opcheck(
        module._operator, (hidden, weight, labels, bias if with_bias else None, torch.float32, 8, True)
    )


H, W, Y, B = torch.zeros(4, 8), torch.zeros(9, 8), torch.zeros(4, dtype=torch.int64), torch.zeros(9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((H[0], W, Y, B), r"hidden: torch.float32 \(8,\)"),
        ((H.long(), W, Y, B), "hidden: torch.int64"),
        ((H, W[:, :4], Y, B), r"weight: torch.float32 \(9, 4\); accepted: floating point \[V, 8\]"),
        ((H, W, Y[:3], B), r"labels: torch.int64 \(3,\)"),
        ((H, W, Y.int(), B), "labels: torch.int32"),
        ((H, W, Y, B[:3]), r"bias: torch.float32 \(3,\)"),
        ((H, W, torch.tensor([0, 1, 9, 2]), B), r"labels: 9 in row 2; accepted: 0 \.\. 8"),
        ((H, W, torch.tensor([0, -1, 8, 2]), B), "labels: -1 in row 1"),
        ((H, W.to("meta"), Y, B), "weight: on meta; accepted: cpu"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        linear_cross_entropy(*arguments)


def test_wrong_options():
    with pytest.raises(ValueError, match=r"^reduction: 'none'"):
        linear_cross_entropy(H, W, Y, B, reduction="none")
    with pytest.raises(ValueError, match=r"^chunk_rows: 0"):
        linear_cross_entropy(H, W, Y, B, chunk_rows=0)
    with pytest.raises(ValueError, match=r"^masked: 3 is less than the 4 labels"):
        masked_lm_loss(H, W, Y, B, masked=3)
    with pytest.raises(ValueError, match=r"^masked: -1"):
        masked_lm_loss(H, W, Y, B, masked=-1)
    with pytest.raises(ValueError, match=r"^labels: shape \(3,\)"):
        masked_lm_loss(H, W, Y[:3], B)
    with pytest.raises(ValueError, match=r"^hidden: shape \(\d+,\)"):
        masked_lm_loss(H[0], W, Y[0], B)


def test_compiled_code_asserts_a_masked_that_it_cannot_read():
    """Labels left out would be a wrong loss."""
    count = int((Y != -100).sum())
    for masked in (count, count - 1):
        step = torch.compile(
            lambda h, y, masked=masked: masked_lm_loss(h, W, y, B, masked=masked),
            fullgraph=True,
            backend="aot_eager",
        )
        if masked == count:
            torch.testing.assert_close(step(H, Y), masked_lm_loss(H, W, Y, B))
        else:
            with pytest.raises(RuntimeError, match=r"^masked: less than the labels"):
                step(H, Y)


def test_shapes_without_values():
    """On the meta device, which autocast does not know."""
    h, w, y = (x.to("meta") for x in (H, W, Y))
    assert masked_lm_loss(h, w, y, masked=3).shape == ()
