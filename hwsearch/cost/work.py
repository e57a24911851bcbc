"""Operations and bytes of operators: what their seconds are held against when rates are reported."""

from __future__ import annotations

from hwsearch.cost.batch import Count, WorkloadBatch
from hwsearch.cost.distinct import Distinct
from hwsearch.cost.layer import Attention, Operator, Products, Stream
from hwsearch.cost.stream import STREAM_TRAINING_FACTOR
from hwsearch.gpu.profile import BYTES_PER_ELEMENT
from hwsearch.shape.flops import visible_pairs
from hwsearch.shape.table import Column

# Backward attention does five products for forward's two, and touches operands and gradients of both.
ATTENTION_TRAINING_FLOPS, ATTENTION_TRAINING_BYTES, PRODUCTS_TRAINING_FACTOR = 3.5, 3.0, 3.0


def flops_and_bytes(
    operator: Operator, sizes: Distinct, window: Column | None, batch: WorkloadBatch
) -> tuple[float, float]:
    """Of one execution of an operator that is no product of weights, in training with its backward."""
    flops, moved = _forward(operator, sizes, window, batch)
    if not batch.training:
        return flops, moved
    match operator:
        case Attention():
            return flops * ATTENTION_TRAINING_FLOPS, moved * ATTENTION_TRAINING_BYTES
        case Stream():
            return flops, moved * STREAM_TRAINING_FACTOR
        case _:
            return flops * PRODUCTS_TRAINING_FACTOR, moved * PRODUCTS_TRAINING_FACTOR


def _forward(
    operator: Operator, sizes: Distinct, window: Column | None, batch: WorkloadBatch
) -> tuple[float, float]:
    element, tokens = BYTES_PER_ELEMENT[batch.dtype], batch.tokens
    if isinstance(operator, Stream):
        rows, width = only(batch.rows(operator.rows, sizes)), only(batch.width(operator.width, sizes))
        return 0.0, element * operator.passes * rows * width
    query, key = only(batch.width("query", sizes)), only(batch.width("key", sizes))
    if isinstance(operator, Attention):
        seen = None if window is None else only(window)
        lengths, counts = batch.lengths
        pairs = sum(int(c) * visible_pairs([int(s)], seen) for s, c in zip(lengths, counts, strict=True))
        return 4.0 * pairs * query, 2.0 * element * tokens * (query + key)
    with_positions = isinstance(operator, Products) and operator.with_positions
    others = tokens * batch.architecture.position_rows
    pairs = others if with_positions else only(batch.rows("scores", sizes))
    scores = 2.0 * pairs * only(batch.width("heads", sizes))
    return 4.0 * pairs * query, element * (scores + 4.0 * tokens * query)


def only(value: Count) -> int:
    """The value of a column with one row."""
    return value if isinstance(value, int) else int(value[0])
