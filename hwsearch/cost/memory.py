"""Peak memory of an encoder on a GPU, and the largest batch that fits.

Counted from what the layers hold, not yet checked against a device: weights, optimizer states,
activations alive at once (inference) or saved for backward (training, no recomputation), logits,
and a fixed share for the CUDA context and library workspaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import Settings
from hwsearch.shape.parameters import backbone_parameters, masked_lm_parameters
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload

# CUDA context with its kernels about 500 MiB, cuBLAS workspace 32 MiB on Hopper and less elsewhere.
CONTEXT_BYTES = 532 << 20
# Float32 parameter, gradient and two AdamW moments.
TRAINING_BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Memory:
    """Bytes, each array [N]: `fixed` whatever the batch, `per_batch` for the given batch."""

    fixed: NDArray[np.float64]
    per_batch: NDArray[np.float64]

    @property
    def peak_bytes(self) -> NDArray[np.float64]:
        return self.fixed + self.per_batch

    def largest_batch(self, gpu: Gpu, workload: Workload) -> NDArray[np.int64]:
        """Sequences like the workload's that fit the GPU at once, [N]; 0 where the weights do not."""
        room = np.maximum(gpu.memory_bytes - self.fixed, 0.0)
        return (room / (self.per_batch / workload.batch_size)).astype(np.int64)


def encoder_memory(shapes: ShapeTable, workload: Workload, settings: Settings, dtype: str) -> Memory:
    """Peak memory of every shape for one batch in `dtype`, on any GPU."""
    architecture = shapes.architecture
    lengths, counts = workload.computed_lengths(unpads=architecture.unpads)
    tokens = float((lengths * counts).sum())
    head_tokens = settings.head_tokens(int(tokens))
    element = BYTES_PER_ELEMENT[dtype]
    hidden, fused = shapes.hidden_size, shapes.intermediate_size * (1 + architecture.gated_mlp)
    qkv = hidden + 2 * shapes.key_value_heads * shapes.head_size
    scores: Any = 0
    if architecture.position == "relative":
        # Disentangled attention holds the score matrix, its positional terms and the probabilities.
        scores = 4 * float((lengths.astype(float) ** 2 * counts).max()) * shapes.num_attention_heads
    if settings.training:
        parameters = masked_lm_parameters(shapes) * TRAINING_BYTES_PER_PARAMETER
        # Saved per layer: two norm inputs, the inputs of the four GEMMs, q, k and v, the activation's
        # input and output; float32 log-sum-exp per head.
        saved = 2 * hidden + 2 * hidden + qkv + hidden + fused + 2 * shapes.intermediate_size
        per_layer = tokens * (element * saved + 4 * shapes.num_attention_heads) + element * scores
        # Logits, their float32 copy and its gradient.
        logits = head_tokens * shapes.vocab_size * (element + 8)
        batch = shapes.num_hidden_layers * per_layer + logits + tokens * element * hidden
    else:
        count = masked_lm_parameters(shapes) if head_tokens else backbone_parameters(shapes)
        parameters = count * element
        # The residual stream stays; beside it the larger of attention's and the feed-forward's tensors.
        widest = np.maximum(qkv + hidden, fused + shapes.intermediate_size)
        logits = head_tokens * shapes.vocab_size * element
        batch = np.maximum(tokens * element * (2 * hidden + widest) + element * scores, logits)
    return Memory(np.asarray(parameters + CONTEXT_BYTES, dtype=float), np.asarray(batch, dtype=float))
