"""The operators as autograd, autocast and checkpoints see them, and what they do not copy."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from attention_truth import DEVICE, Case, error, ours, truth, with_gradients
from torch.utils.checkpoint import checkpoint

from hwsearch.kernels import attention_schedule, varlen_attention, varlen_attention_qkvpacked
from hwsearch.kernels.triton_attention import launch, operators

CASE = Case((5, 0, 33), size=32, heads=2, key_heads=1, rope=True)
CHECKS = (
    "test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)  # fmt: skip


def call_of(case: Case) -> tuple:
    schedule = attention_schedule(case.cu_seqlens(), case.tokens, max(case.lengths))
    cos, sin = case.rope_tables() or (None, None)
    window = -1 if case.window is None else case.window
    return schedule, len(case.lengths), case.max_seqlen, window, case.causal, 0.2, cos, sin


@pytest.mark.parametrize(
    "case", [CASE, Case((5, 70), heads=2, window=3, causal=True)], ids=["rope", "window, causal"]
)
def test_opcheck(case):
    q, k, v = (x.requires_grad_() for x in case.qkv())
    assert set(torch.library.opcheck(operators.attend, (q, k, v, *call_of(case))).values()) == {"SUCCESS"}
    qkv = torch.stack(case.random(2, 2, 2), dim=1).requires_grad_()
    assert set(torch.library.opcheck(operators.attend_packed, (qkv, *call_of(case))).values()) == {"SUCCESS"}


@pytest.mark.parametrize("dlse", [None, 1.0])
def test_opcheck_of_backward(dlse):
    q, k, v, dout = CASE.random(2, 1, 1, 2)
    call = call_of(CASE)
    out, lse = operators.attend(q, k, v, *call)
    dlse = None if dlse is None else torch.full_like(lse, dlse)
    arguments = (dout, dlse, q, k, v, out, lse, *call)
    assert set(torch.library.opcheck(operators.attend_backward, arguments).values()) == {"SUCCESS"}
    qkv = torch.stack(CASE.random(2, 2, 2), dim=1)
    arguments = (dout, dlse, qkv, out, lse, *call)
    assert set(torch.library.opcheck(operators.attend_packed_backward, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("lengths", [(5, 0, 33), (7,), ()], ids=str)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_opcheck_of_the_schedule(lengths, dtype):
    offsets = Case(lengths).cu_seqlens().to(dtype)
    found = torch.library.opcheck(attention_schedule, (offsets, sum(lengths), max(lengths, default=0)))
    assert set(found.values()) == {"SUCCESS"}


def packed(qkv: torch.Tensor, case: Case, **options):
    return varlen_attention_qkvpacked(
        qkv, case.cu_seqlens(), case.max_seqlen, rope=case.rope_tables(), backend="triton", **options
    )


@pytest.mark.parametrize("spare", [0, 600])
def test_packed_is_read_where_it_lies(spare):
    """From the projection as it is, the three of it side by side; one gradient of the same shape."""
    case = Case((5, 33), heads=2, key_heads=2, rope=True, spare=spare)
    flat = torch.stack(case.random(2, 2, 2), dim=1).flatten(1).requires_grad_()
    qkv = flat.view(case.tokens, 3, 2, case.size)
    with patch.object(launch, "forward", wraps=launch.forward) as forward:
        out = packed(qkv, case)
    starts = [x.data_ptr() for x in forward.call_args.args[:3]]
    assert starts == [x.data_ptr() for x in qkv.unbind(1)]
    assert forward.call_args.args[0].stride() == qkv[:, 0].stride()
    (dout,) = case.random(2, seed=1)
    with patch.object(launch, "backward", wraps=launch.backward) as backward:
        (gradient,) = torch.autograd.grad(out, flat, dout)
    assert [x.data_ptr() for x in backward.call_args.args[2:5]] == starts
    assert [x.data_ptr() for x in backward.call_args.args[8:11]] == [
        x.data_ptr() for x in gradient.view_as(qkv).unbind(1)
    ]
    right = with_gradients(truth, *qkv.detach().unbind(1), case, dout)
    assert error(out, right["out"]) < 1e-5
    expected = torch.stack([right[name] for name in ("dq", "dk", "dv")], dim=1)
    assert error(gradient.view_as(qkv), expected) < 1e-5


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_gradients_of_some_inputs_only(wanted):
    inputs = CASE.qkv()
    (dout,) = CASE.random(CASE.heads, seed=1)
    right = with_gradients(truth, *inputs, CASE, dout)
    for index in wanted:
        inputs[index].requires_grad_()
    out, _ = ours(*inputs, CASE)
    found = torch.autograd.grad(out, [inputs[index] for index in wanted], dout)
    for index, gradient in zip(wanted, found, strict=True):
        assert error(gradient, right[("dq", "dk", "dv")[index]]) < 1e-5


@pytest.mark.parametrize("spare", [0, 600])
def test_out_used_twice_lse_alone_and_expanded_gradients(spare):
    case = Case((5, 0, 33), heads=2, window=6, spare=spare)
    losses = {
        "twice": lambda out, lse: (out * out).sum() + out.mean(),
        "lse alone": lambda out, lse: (lse * lse).sum(),
        "one number": lambda out, lse: out.sum(),
        "a row": lambda out, lse: out.sum(dim=(0, 1)) @ torch.arange(32, device=DEVICE).to(out.dtype),
        "transposed": lambda out, lse: (out.mT * torch.arange(2, device=DEVICE)).square().sum(),
        "both": lambda out, lse: out.sum() + lse.T.square().sum(),
    }
    for name, loss in losses.items():
        found, right = [], []
        for attention, gradients in ((ours, found), (truth, right)):
            leaves = [
                (x.double() if attention is truth else x).requires_grad_() for x in case.qkv()
            ]  # fmt: skip
            gradients += torch.autograd.grad(
                loss(*attention(*leaves, case)), leaves, allow_unused=True, materialize_grads=True
            )
        for a, b in zip(found, right, strict=True):
            assert error(a, b) < 1e-4, name


def test_last_dimension_not_contiguous():
    q, k, v = (x.mT.contiguous().mT for x in CASE.qkv())
    assert error(ours(q, k, v, CASE)[0], truth(q, k, v, CASE)[0]) < 1e-5


def test_inference_mode_and_no_grad():
    q, k, v = (x.requires_grad_() for x in CASE.qkv())
    with torch.inference_mode():
        inferred, _ = ours(q, k, v, CASE)
    with torch.no_grad():
        out, _ = ours(q, k, v, CASE)
    assert not out.requires_grad
    assert torch.equal(out, inferred)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_gives_the_same_gradients(reentrant):
    leaves = [x.requires_grad_() for x in CASE.qkv()]
    plain = torch.autograd.grad(ours(*leaves, CASE)[0].square().sum(), leaves)
    checkpointed = checkpoint(lambda *x: ours(*x, CASE)[0], *leaves, use_reentrant=reentrant)
    checkpointed.square().sum().backward()
    for x, gradient in zip(leaves, plain, strict=True):
        assert torch.equal(x.grad, gradient)


def test_under_autocast_a_projection_feeds_it_in_16_bits():
    case = Case((5, 33), heads=2, key_heads=2)
    projection = torch.nn.Linear(64, 3 * 2 * 32, device=DEVICE)
    x = torch.randn(case.tokens, 64, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        out = packed(projection(x).view(-1, 3, 2, 32), case)
        assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert projection.weight.grad.dtype == torch.float32
    assert projection.weight.grad.isfinite().all()


def test_no_tokens():
    cu = torch.tensor([0, 0], device=DEVICE)
    q = torch.zeros(0, 2, 32, device=DEVICE, requires_grad=True)
    out, lse = varlen_attention(q, q, q, cu, 0, backend="triton", return_lse=True)
    assert (out.shape, lse.shape) == ((0, 2, 32), (2, 0))
    assert torch.autograd.grad(out.sum(), q)[0].shape == q.shape
