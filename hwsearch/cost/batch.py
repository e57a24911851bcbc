"""Operators of one batch on one GPU: forward alone, or forward and backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.distinct import Distinct, Seconds
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.layer import Attention, Gemm, Operator, Products, Rows, Stream, Width
from hwsearch.cost.stream import stream_seconds
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import Settings
from hwsearch.shape.architecture import Architecture
from hwsearch.shape.table import Column
from hwsearch.workload import Workload

# Backward of a stream reads the incoming gradient and what forward saved, and writes a gradient.
STREAM_TRAINING_FACTOR = 3.0
# AdamW in float32: reads parameter, gradient and two moments, writes parameter and two moments.
OPTIMIZER_BYTES_PER_PARAMETER = 28
Count = Column | Seconds | int
PRODUCT_RATE = 0.6


@dataclass(frozen=True)
class Batch(ABC):
    """Prices the operators of `hwsearch.cost.layer`; all results are seconds per distinct layer [D]."""

    gpu: Gpu
    dtype: str
    training: bool
    architecture: Architecture

    @abstractmethod
    def rows(self, name: Rows, sizes: Distinct) -> Count:
        """The count behind a symbolic row size: one for all, or one per distinct layer."""

    @abstractmethod
    def attention(self, sizes: Distinct, window: Column | None) -> Seconds:
        """Forward attention, global or within a window to each side."""

    def seconds(self, operator: Operator, sizes: Distinct, window: Column | None = None) -> Seconds:
        """One execution of `operator` in every distinct layer; with its backward in training."""
        match operator:
            case Gemm():
                products = self.gemm_sizes(operator, sizes).values()
                each = [gemm_seconds(self.gpu, self.dtype, m, n, k) for m, n, k in products]
                return np.asarray(sum(each))
            case Stream():
                elements = self.rows(operator.rows, sizes) * self.width(operator.width, sizes).astype(float)
                moved = elements * operator.passes * BYTES_PER_ELEMENT[self.dtype]
                forward = stream_seconds(self.gpu, moved, operator.norm)
                return forward * STREAM_TRAINING_FACTOR if self.training else forward
            case Attention():
                forward = self.attention(sizes, window)
                return forward * (1 + BACKWARD_FACTOR) if self.training else forward
            case Products():
                return self._products(sizes)

    def optimizer(self, parameters: Column) -> Seconds:
        """One AdamW step over `parameters` [N]."""
        return stream_seconds(self.gpu, parameters * OPTIMIZER_BYTES_PER_PARAMETER)

    def gemm_sizes(self, operator: Gemm, sizes: Distinct) -> dict[str, tuple[Count, Count, Count]]:
        """m, n and k of the product; in training also of both of its gradients."""
        rows = self.rows(operator.rows, sizes)
        outputs, inputs = self.width(operator.outputs, sizes), self.width(operator.inputs, sizes)
        sizes_of: dict[str, tuple[Count, Count, Count]] = {"product": (rows, outputs, inputs)}
        if self.training:
            sizes_of["data gradient"] = (rows, inputs, outputs)
            sizes_of["weight gradient"] = (outputs, inputs, rows)
        return sizes_of

    def _products(self, sizes: Distinct) -> Seconds:
        """Q K^T and P V of all heads; in training also their gradients, two products for each."""
        heads, head_size = sizes["heads"], sizes["head_size"]
        scores = self.rows("scores", sizes) * heads
        operands = 4.0 * self.rows("tokens", sizes) * heads * head_size
        rate = PRODUCT_RATE * self.gpu.dense_flops_per_s[self.dtype]
        moved = (2 * scores + operands) * BYTES_PER_ELEMENT[self.dtype]
        forward = stream_seconds(self.gpu, moved / 2) * 2
        forward = np.maximum(forward, 4 * scores * head_size / rate)
        return forward * 3 if self.training else forward

    def width(self, name: Width, sizes: Distinct) -> Column:
        match name:
            case "query":
                return sizes["heads"] * sizes["head_size"]
            case "key":
                return sizes["kv_heads"] * sizes["head_size"]
            case "qkv":
                return (sizes["heads"] + 2 * sizes["kv_heads"]) * sizes["head_size"]
            case "rotated":
                return (sizes["heads"] + sizes["kv_heads"]) * sizes["head_size"]
            case "fused":
                return sizes["intermediate"] * (1 + self.architecture.gated_mlp)
            case "positions":
                return np.full_like(sizes["hidden"], self.architecture.position_rows)
            case _:
                return sizes[name]


@dataclass(frozen=True)
class WorkloadBatch(Batch):
    """The same sequences for every shape; whether padding is computed is the architecture's matter."""

    workload: Workload
    settings: Settings

    @classmethod
    def of(
        cls, gpu: Gpu, workload: Workload, settings: Settings, architecture: Architecture
    ) -> WorkloadBatch:
        return cls(gpu, settings.dtype_on(gpu), settings.training, architecture, workload, settings)

    @property
    def tokens(self) -> int:
        lengths, counts = self.workload.computed_lengths(unpads=self.architecture.unpads)
        return int((lengths * counts).sum())

    def rows(self, name: Rows, sizes: Distinct) -> Column | int:
        match name:
            case "tokens":
                return self.tokens
            case "scores":
                lengths, counts = self.workload.computed_lengths(unpads=self.architecture.unpads)
                return int((lengths.astype(float) ** 2 * counts).sum())
            case "positions":
                return self.architecture.position_rows
            case "head_tokens":
                return self.settings.head_tokens(self.tokens)
            case _:
                return self.width(name, sizes)

    def attention(self, sizes: Distinct, window: Column | None) -> Seconds:
        lengths, counts = self.workload.computed_lengths(unpads=self.architecture.unpads)
        return attention_seconds(
            self.gpu,
            self.dtype,
            lengths,
            counts,
            sizes["heads"],
            sizes["head_size"],
            window=window,
            key_value_heads=sizes["kv_heads"],
        )
