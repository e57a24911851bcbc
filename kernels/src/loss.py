"""Cross-entropy of a linear decoder, at the predicted tokens only and a chunk of their logits at a time.

A chunk's gradients are made with its logits, in the forward pass, so no logits outlive their chunk.
Shape suffixes: T tokens, P predictions, C hidden size, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
# 2^27 logits are 0.8 GB in bf16 with their float32 log-probabilities: 2,560 rows of 50,368 words. Every
# chunk also adds [V, C] into the weight's gradient, which fewer rows would not hide.
CHUNK_LOGITS = 2**27
ROW_MULTIPLE = 256  # whole tiles of the matrix products


def masked_lm_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    masked: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    chunk_rows: int | None = None,
) -> Tensor:
    """`linear_cross_entropy` of labels as Hugging Face's collator makes them, -100 where none is given.

    Rows without a label are dropped before any product with `weight`.

    Args:
        hidden: [T, C] or [..., C], floating point.
        labels: int64 [T] or [...].
        masked: how many labels are not -100, or more (then every row up to it is computed: a fixed
            number keeps shapes static). Without it the device is asked, which waits for it.

    Raises ValueError, which names the argument; on the CPU also for a `masked` that is too small, which
    elsewhere and in compiled code the device asserts (torch._assert_async).
    """
    if hidden.dim() < 2:
        raise ValueError(f"hidden: shape {tuple(hidden.shape)}; accepted: [..., C] of two dimensions or more")
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"labels: shape {tuple(labels.shape)}; accepted: {tuple(hidden.shape[:-1])}, as hidden"
        )
    labels_T = labels.flatten()
    positions_P = masked_positions(labels_T, masked)
    present = positions_P >= 0
    rows_P = positions_P.clamp(min=0)
    if labels_T.shape[0] == 0:  # static shapes of nothing: there is no row to repeat
        rows_P, present = rows_P[:0], present[:0]
    labels_P = labels_T.index_select(0, rows_P).where(present, IGNORED)
    hidden_PC = hidden.flatten(0, -2).index_select(0, rows_P)
    return linear_cross_entropy(hidden_PC, weight, labels_P, bias, reduction=reduction, chunk_rows=chunk_rows)


def masked_positions(labels_T: Tensor, masked: int | None = None) -> Tensor:
    """Places of the labels that are not -100, int64 [masked], filled up with -1; no wait with `masked`.

    Raises ValueError for a `masked` that is negative, and on the CPU for one that is too small; elsewhere
    that is a device-side assertion, since labels left out would be a wrong loss.
    """
    chosen = labels_T != IGNORED
    if masked is None:
        return chosen.nonzero()[:, 0]
    if masked < 0:
        raise ValueError(f"masked: {masked}; accepted: 0 or more")
    if labels_T.shape[0] == 0:
        # On a GPU nonzero_static divides by the number of elements.
        return labels_T.new_full((masked,), -1)
    if not _readable(labels_T):
        torch._assert_async(chosen.sum() <= masked, "masked: less than the labels that are not -100")
    elif masked < (count := int(chosen.sum())):
        raise ValueError(f"masked: {masked} is less than the {count} labels that are not {IGNORED}")
    return torch.nonzero_static(chosen, size=masked, fill_value=-1)[:, 0]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    chunk_rows: int | None = None,
) -> Tensor:
    """F.cross_entropy(F.linear(hidden, weight, bias), labels) without its [P, V] tensors.

    Products run in hidden's dtype, or in autocast's; softmax, loss and the weight's gradient are
    summed in float32 (float64 for float64). Has no second derivative.

    Args:
        hidden: [P, C], floating point.
        weight: [V, C], floating point; a tied embedding gets its gradient added as from any use.
        labels: int64 [P] in 0 .. V - 1, or -100: such a row counts for nothing.
        bias: [V] or None.
        reduction: "mean" over the rows that count (0 where there is none) or "sum".
        chunk_rows: rows of logits alive at a time; by default some 2^27 logits.

    Returns:
        A scalar in float32, or float64 for float64 products.

    Raises ValueError, which names the argument; values of labels are read on the CPU alone.
    """
    _check(hidden, weight, labels, bias, reduction, chunk_rows)
    dtype = hidden.dtype
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    parts = (hidden, weight) if bias is None else (hidden, weight, bias)
    wanted = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    rows = _chunk_rows(weight.shape[0]) if chunk_rows is None else chunk_rows
    total: Tensor = _operator(hidden, weight, labels, bias, dtype, rows, wanted)[0]
    if reduction == "sum":
        return total
    return total / (labels != IGNORED).sum().clamp(min=1)


def _chunk_rows(words: int) -> int:
    return max(CHUNK_LOGITS // max(words, 1) // ROW_MULTIPLE, 1) * ROW_MULTIPLE


def by_chunks(
    hidden_PC: Tensor,
    weight_VC: Tensor,
    labels_P: Tensor,
    bias_V: Tensor | None,
    dtype: torch.dtype,
    chunk_rows: int,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(sum of losses, and its gradients by hidden, weight and bias; empty where not wanted)."""
    precise = torch.promote_types(dtype, torch.float32)
    total, dhidden_PC, dweight_VC, dbias_V = _outputs(
        hidden_PC, weight_VC, labels_P, bias_V, dtype, 0, wanted
    )
    sums_VC, sums_V = (torch.empty_like(x, dtype=precise) for x in (dweight_VC, dbias_V))
    total.zero_()
    if hidden_PC.shape[0] == 0:
        sums_VC.zero_()
        sums_V.zero_()
    with torch.autocast(hidden_PC.device.type, enabled=False):
        inputs_PC, matrix_VC = hidden_PC.to(dtype), weight_VC.to(dtype)
        added_V = None if bias_V is None else bias_V.to(dtype)
        for first in range(0, hidden_PC.shape[0], chunk_rows):
            rows = slice(first, first + chunk_rows)
            inputs_RC, labels_R = inputs_PC[rows], labels_P[rows]
            logits_RV = F.linear(inputs_RC, matrix_VC, added_V)
            losses_R, dlogits_RV = _softmax(logits_RV, labels_R, precise, wanted)
            total += losses_R.sum()
            if not wanted:
                continue
            # Rows that do not count are zeroed where they are narrow, not over the vocabulary.
            counts_R1 = (labels_R != IGNORED).to(dtype)[:, None]
            dhidden_PC[rows] = (dlogits_RV @ matrix_VC) * counts_R1
            _add_product(sums_VC, dlogits_RV.T, inputs_RC * counts_R1, first == 0)
            if bias_V is not None:
                _add_product(sums_V[:, None], dlogits_RV.T, counts_R1, first == 0)
    return total, dhidden_PC, sums_VC.to(weight_VC.dtype), sums_V.to(dbias_V.dtype)


def _add_product(sums: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    if a.dtype == sums.dtype:
        sums.addmm_(a, b, beta=0 if is_first else 1)
    elif is_first:
        sums.copy_(a @ b)
    else:
        sums += a @ b


def _softmax(
    logits_RV: Tensor, labels_R: Tensor, precise: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Losses [R] and, over the logits' own memory, softmax minus one at the label."""
    counts_R = labels_R != IGNORED
    labels_R1 = labels_R.where(counts_R, 0)[:, None]
    logp_RV = F.log_softmax(logits_RV, dim=-1, dtype=precise)
    logp_R1 = logp_RV.gather(1, labels_R1)
    if wanted:
        torch.exp(logp_RV, out=logits_RV)
        logits_RV.scatter_(1, labels_R1, logp_R1.expm1().to(logits_RV.dtype))
    return -logp_R1[:, 0].where(counts_R, 0), logits_RV


def _outputs(
    hidden_PC: Tensor,
    weight_VC: Tensor,
    labels_P: Tensor,
    bias_V: Tensor | None,
    dtype: torch.dtype,
    chunk_rows: int,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = hidden_PC.new_empty((), dtype=torch.promote_types(dtype, torch.float32))
    gradients = [
        torch.empty(x.shape if wanted else 0, dtype=x.dtype, device=x.device) for x in (hidden_PC, weight_VC)
    ]
    dbias_V = hidden_PC.new_empty(0) if bias_V is None or not wanted else torch.empty_like(bias_V)
    return total, gradients[0], gradients[1], dbias_V


_operator = torch.library.custom_op("hwsearch::linear_cross_entropy", by_chunks, mutates_args=())
_operator.register_fake(_outputs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.has_bias, ctx.wanted = inputs[3] is not None, inputs[6]
    ctx.save_for_backward(*output[1:])


def _scale(ctx: Any, dtotal: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # by create_graph
        raise RuntimeError("linear_cross_entropy cannot be differentiated twice")
    if dtotal is None or not ctx.wanted:
        return (None,) * 7
    dhidden_PC, dweight_VC, dbias_V = (
        (gradient * dtotal).to(gradient.dtype) for gradient in ctx.saved_tensors
    )
    return dhidden_PC, dweight_VC, None, dbias_V if ctx.has_bias else None, None, None, None


_operator.register_autograd(_scale, setup_context=_save)


def _check(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    reduction: str,
    chunk_rows: int | None,
) -> None:
    if hidden.dim() != 2 or not hidden.is_floating_point():
        raise ValueError(f"hidden: {hidden.dtype} {tuple(hidden.shape)}; accepted: floating point [P, C]")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1] or not weight.is_floating_point():
        raise ValueError(
            f"weight: {weight.dtype} {tuple(weight.shape)}; accepted: floating point [V, {hidden.shape[1]}]"
        )
    if labels.dtype != torch.int64 or labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels: {labels.dtype} {tuple(labels.shape)}; accepted: int64 [{hidden.shape[0]}]")
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_floating_point()):
        raise ValueError(
            f"bias: {bias.dtype} {tuple(bias.shape)}; accepted: floating point [{weight.shape[0]}]"
        )
    for name, x in (("weight", weight), ("labels", labels), ("bias", bias)):
        if x is not None and x.device != hidden.device:
            raise ValueError(f"{name}: on {x.device}; accepted: {hidden.device}, as hidden")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: {reduction!r}; accepted: 'mean' or 'sum'")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows: {chunk_rows}; accepted: 1 or more")
    if _readable(labels):
        _check_labels(labels, weight.shape[0])


def _check_labels(labels_P: Tensor, words: int) -> None:
    wrong_P = (labels_P != IGNORED) & ((labels_P < 0) | (labels_P >= words))
    if wrong_P.any():
        row = int(wrong_P.nonzero()[0])
        raise ValueError(
            f"labels: {int(labels_P[row])} in row {row}; accepted: 0 .. {words - 1}, the rows of weight,"
            f" or {IGNORED}"
        )


def _readable(x: Tensor) -> bool:
    """Values can be read without a wait, and without breaking a compiled graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
