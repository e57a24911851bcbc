"""Operators of one batch on one GPU: forward alone, or forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.distinct import Distinct, Seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.stream import StreamKernel, bytes_seconds, stream_seconds
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape.table import Column
from hwsearch.workload import Workload

# Backward of a stream reads the incoming gradient and what forward saved, and writes a gradient.
STREAM_TRAINING_FACTOR = 3.0
# AdamW in float32: reads parameter, gradient and two moments, writes parameter and two moments.
OPTIMIZER_BYTES_PER_PARAMETER = 28
# DeBERTa's eager attention moves the score matrix: two gathers and two additions of the positional
# terms, scale, mask, softmax and dropout, each a read and a write.
SCORE_MATRIX_STREAMS = 16


@dataclass(frozen=True)
class Batch:
    """Prices operators for `workload` as `settings` say; all results are seconds per distinct row [D].

    `unpads` tells whether the encoder computes real tokens only or its padding too.
    """

    gpu: Gpu
    workload: Workload
    settings: Settings
    unpads: bool

    @cached_property
    def dtype(self) -> str:
        return self.settings.dtype_on(self.gpu)

    @cached_property
    def tokens(self) -> int:
        """Rows of every GEMM outside the head."""
        lengths, counts = self.workload.computed_lengths(unpads=self.unpads)
        return int((lengths * counts).sum())

    def gemm(self, rows: int, outputs: Column, inputs: Column) -> Seconds:
        """y[rows, outputs] = x[rows, inputs] W^T; in training also both of its gradients."""
        forward = gemm_seconds(self.gpu, self.dtype, rows, outputs, inputs)
        if not self.settings.training:
            return forward
        data_gradient = gemm_seconds(self.gpu, self.dtype, rows, inputs, outputs)
        weight_gradient = gemm_seconds(self.gpu, self.dtype, outputs, inputs, rows)
        return np.asarray(forward + data_gradient + weight_gradient)

    def streams(self, rows: int, width: Column, passes: tuple[int, ...], *, norm: bool = False) -> Seconds:
        """One kernel per entry of `passes`, which reads and writes that many times rows x width elements."""
        factor = STREAM_TRAINING_FACTOR if self.settings.training else 1.0
        kernel: StreamKernel = "layernorm" if norm else "elementwise"
        seconds = np.zeros(len(width))
        for count in passes:
            seconds += factor * stream_seconds(self.gpu, self.dtype, rows, width, kernel, count)
        return seconds

    def attention(self, sizes: Distinct, window: Column | None = None) -> Seconds:
        """Flash attention over the computed sequences, global or within a window to each side."""
        lengths, counts = self.workload.computed_lengths(unpads=self.unpads)
        forward = attention_seconds(
            self.gpu,
            self.dtype,
            lengths,
            counts,
            sizes["heads"],
            sizes["hidden"] // sizes["heads"],
            window=window,
            key_value_heads=sizes["kv_heads"],
        )
        return forward * (1 + BACKWARD_FACTOR) if self.settings.training else forward

    def disentangled(self, sizes: Distinct, position_rows: int) -> Seconds:
        """What DeBERTa's relative positions add to a layer: projected tables, two products, and the
        score matrix moved through memory, on top of the attention that every model has. An estimate:
        no data that we know of has it."""
        lengths, counts = self.workload.computed_lengths(unpads=self.unpads)
        hidden, heads = sizes["hidden"], sizes["heads"]
        seconds = 2 * self.gemm(position_rows, hidden, hidden)
        seconds += 2 * self.gemm(self.tokens, np.full_like(hidden, position_rows), hidden)
        scores = int((lengths.astype(float) ** 2 * counts).sum())
        return seconds + self.streams(scores, heads, (2,) * (SCORE_MATRIX_STREAMS // 2))

    def optimizer(self, parameters: Column) -> Seconds:
        """One AdamW step over `parameters` [N]."""
        return bytes_seconds(self.gpu, parameters * OPTIMIZER_BYTES_PER_PARAMETER)
