"""Operators of one batch on one GPU: forward alone, or forward and backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from hwsearch.cost.attention import BACKWARD_FACTOR, attention_seconds
from hwsearch.cost.distinct import Distinct, Seconds
from hwsearch.cost.gemm import bmm_seconds, gemm_seconds
from hwsearch.cost.layer import Attention, Gemm, Operator, Products, Rows, Stream, Width
from hwsearch.cost.runtime import GAP_S_PER_KERNEL
from hwsearch.cost.stream import STREAM_TRAINING_FACTOR, StreamKernel, bytes_seconds, stream_seconds
from hwsearch.cost.tuned_attention import AttentionTime, TunedAttention, runs_own_attention
from hwsearch.gpu.attention_kernels import choose_kernel
from hwsearch.gpu.profile import Gpu
from hwsearch.settings import Settings
from hwsearch.shape.architecture import Architecture
from hwsearch.shape.table import Column
from hwsearch.workload import Workload

# Launches of forward, backward (two products for each of forward's) and optimizer over those of forward.
TRAINING_KERNELS = 3
# AdamW in float32: reads parameter, gradient and two moments, writes parameter and two moments.
OPTIMIZER_BYTES_PER_PARAMETER = 28
Count = Column | Seconds | int


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
    def attention(self, sizes: Distinct, window: Column | None, kernel: str | None) -> Seconds:
        """Forward attention of a library's kernel, global or within a window to each side."""

    @abstractmethod
    def sequences(self, sizes: Distinct) -> tuple[Column, Column]:
        """Counts and lengths of the sequences, [L, 1] alike for all distinct layers or [1, D]."""

    def seconds(self, operator: Operator, sizes: Distinct, window: Column | None = None) -> Seconds:
        """One execution of `operator` in every distinct layer; with its backward in training."""
        launches = operator.kernels * (TRAINING_KERNELS if self.training else 1)
        return self._work(operator, sizes, window) + launches * GAP_S_PER_KERNEL

    def _work(self, operator: Operator, sizes: Distinct, window: Column | None) -> Seconds:
        match operator:
            case Gemm():
                products = self.gemm_sizes(operator, sizes).values()
                each = [gemm_seconds(self.gpu, self.dtype, m, n, k) for m, n, k in products]
                return np.asarray(sum(each))
            case Stream():
                rows, width = self.rows(operator.rows, sizes), self.width(operator.width, sizes)
                kernel: StreamKernel = "layernorm" if operator.norm else "elementwise"
                forward = stream_seconds(self.gpu, self.dtype, rows, width, kernel, operator.passes)
                return forward * STREAM_TRAINING_FACTOR if self.training else forward
            case Attention():
                return self.attention_with_backward(operator, sizes, window)
            case Products():
                return self._products(operator, sizes)

    def attention_with_backward(self, operator: Attention, sizes: Distinct, window: Column | None) -> Seconds:
        """The attention kernel; in training with its backward."""
        forward = self.attention(sizes, window, operator.kernel)
        return forward * (1 + BACKWARD_FACTOR) if self.training else forward

    def optimizer(self, parameters: Column) -> Seconds:
        """One AdamW step over `parameters` [N]."""
        return bytes_seconds(self.gpu, parameters * OPTIMIZER_BYTES_PER_PARAMETER)

    def gemm_sizes(self, operator: Gemm, sizes: Distinct) -> dict[str, tuple[Count, Count, Count]]:
        """m, n and k of the product; in training also of both of its gradients."""
        rows = self.rows(operator.rows, sizes)
        outputs, inputs = self.width(operator.outputs, sizes), self.width(operator.inputs, sizes)
        sizes_of: dict[str, tuple[Count, Count, Count]] = {"product": (rows, outputs, inputs)}
        if self.training:
            sizes_of["data gradient"] = (rows, inputs, outputs)
            sizes_of["weight gradient"] = (outputs, inputs, rows)
        return sizes_of

    def _products(self, operator: Products, sizes: Distinct) -> Seconds:
        """Two products of all heads; in training also their gradients, two products for each."""
        counts, lengths = self.sequences(sizes)
        matrices, head_size = counts * sizes["heads"], sizes["head_size"]
        if operator.with_positions:
            positions = self.rows("positions", sizes)
            forward = 2 * bmm_seconds(self.gpu, self.dtype, matrices, lengths, positions, head_size)
        else:
            forward = bmm_seconds(self.gpu, self.dtype, matrices, lengths, lengths, head_size)
            forward = forward + bmm_seconds(self.gpu, self.dtype, matrices, lengths, head_size, lengths)
        forward = forward.sum(axis=0)
        return np.asarray(forward * 3 if self.training else forward)

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
    """The same sequences for every shape; whether padding is computed is the architecture's matter.

    `tuned` answers for attention kernels of our own, None where others run.
    """

    workload: Workload
    settings: Settings
    tuned: TunedAttention | None = None

    @classmethod
    def of(
        cls, gpu: Gpu, workload: Workload, settings: Settings, architecture: Architecture
    ) -> WorkloadBatch:
        dtype = settings.dtype_on(gpu)
        batch = cls(gpu, dtype, settings.training, architecture, workload, settings)
        if settings.attention_times == "library" or not runs_own_attention(architecture, settings.runtime):
            return batch
        longest = int(batch.lengths[0].max())
        return replace(batch, tuned=TunedAttention(gpu, batch.attention_dtype, longest))

    @property
    def attention_dtype(self) -> str:
        return self.settings.attention_dtype or self.dtype

    @property
    def lengths(self) -> tuple[Column, Column]:
        """Distinct computed lengths and how often each occurs."""
        asked = self.settings.unpads
        return self.workload.computed_lengths(unpads=self.architecture.unpads if asked is None else asked)

    @property
    def tokens(self) -> int:
        lengths, counts = self.lengths
        return int((lengths * counts).sum())

    def rows(self, name: Rows, sizes: Distinct) -> Column | int:
        match name:
            case "tokens":
                return self.tokens
            case "scores":
                lengths, counts = self.lengths
                return int((lengths.astype(float) ** 2 * counts).sum())
            case "positions":
                return self.architecture.position_rows
            case "head_tokens":
                return self.settings.head_tokens(self.tokens)
            case _:
                return self.width(name, sizes)

    def sequences(self, sizes: Distinct) -> tuple[Column, Column]:
        lengths, counts = self.lengths
        return counts[:, None], lengths[:, None]

    def attention(self, sizes: Distinct, window: Column | None, kernel: str | None) -> Seconds:
        lengths, counts = self.lengths
        return attention_seconds(
            self.gpu,
            self.attention_dtype,
            lengths,
            counts,
            sizes["heads"],
            sizes["head_size"],
            window=window,
            key_value_heads=sizes["kv_heads"],
            kernel=kernel,
        )

    def attention_with_backward(self, operator: Attention, sizes: Distinct, window: Column | None) -> Seconds:
        if self.tuned is None or operator.rotation is None:
            return super().attention_with_backward(operator, sizes, window)
        forward = self.attention(sizes, window, operator.kernel)
        rotation = replace(self, training=False).seconds(operator.rotation, sizes)
        factor, backward_factor = self.tuned.factors(sizes["head_size"], window, self.training)
        seconds = factor * (forward + rotation)
        if self.training:
            rotation_backward = self.seconds(operator.rotation, sizes) - rotation
            seconds = seconds + backward_factor * (BACKWARD_FACTOR * forward + rotation_backward)
        return np.asarray(seconds)

    def attention_time(self, operator: Attention, head_size: int, window: int | None) -> AttentionTime:
        """Where the seconds of `operator` come from in one layer."""
        if self.tuned is None or operator.rotation is None:
            return AttentionTime.of_library(
                choose_kernel(self.gpu, self.attention_dtype, operator.kernel), self.training
            )
        return self.tuned.time(self.tuned.key(head_size, window), self.training)
