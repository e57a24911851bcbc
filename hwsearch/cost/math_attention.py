"""Seconds of unfused attention: two batched products, and passes over the score matrix between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.gemm import bmm_seconds
from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.profile import Gpu

# Hugging Face's BERT without a fused kernel: queries, keys, values and output are copied between
# [tokens, heads, size] and [heads, tokens, size]; the scores are scaled and masked, each a kernel.
COPIES, SCORE_KERNELS = 4, 2


def math_attention_seconds(
    gpu: Gpu,
    dtype: str,
    batch: NDArray[np.int64],
    length: NDArray[np.int64],
    heads: NDArray[np.int64],
    head_size: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Device time of softmax(Q K^T) V for `batch` sequences of `length` tokens; the arrays broadcast.

    Masks leave out no work here: every score is computed, causal or local.
    """
    # Counts of rows outgrow 64 bits in the largest tables that are accepted.
    matrices, length = np.broadcast_arrays(1.0 * batch * heads, 1.0 * length)
    some = (matrices > 0) & (length > 0)
    matrices, length = np.maximum(matrices, 1), np.maximum(length, 1)
    rows = matrices * length
    products = bmm_seconds(gpu, dtype, matrices, length, length, head_size)
    products = products + bmm_seconds(gpu, dtype, matrices, length, head_size, length)
    copies = COPIES * stream_seconds(gpu, dtype, rows, head_size)
    scores = SCORE_KERNELS * stream_seconds(gpu, dtype, rows, length)
    softmax = stream_seconds(gpu, dtype, rows, length, kernel="softmax")
    return np.asarray(np.where(some, products + copies + scores + softmax, 0.0))
