"""Peak memory of an encoder on a GPU, and the largest batch that fits.

Inference: the weights in the dtype of the run and what the forward pass holds at once. Training: float32
weights, gradients and two optimizer states (AdamW and StableAdamW alike), what autograd saves, and the
larger of the loss's and one layer's gradients; autocast also keeps a copy of every matrix in its dtype.
With recomputation each layer keeps its input alone, and one layer at a time is saved again. What is held
and saved: hwsearch.cost.activations; errors against torch: results/memory.txt. The caching allocator's
fragmentation is not in these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.cost.activations import CODES, FLOAT32, Code, Load, held_bytes, saved_bytes
from hwsearch.gpu.profile import BYTES_PER_ELEMENT, Gpu
from hwsearch.settings import Settings
from hwsearch.shape.parameters import (
    backbone_parameters,
    head_matrices,
    layer_matrices,
    layers_matrices,
    masked_lm_parameters,
    token_embedding_parameters,
)
from hwsearch.shape.table import ShapeTable
from hwsearch.workload import Workload

# CUDA context with its kernels about 500 MiB, cuBLAS workspace 32 MiB on Hopper and less elsewhere.
CONTEXT_BYTES = 532 << 20
# Float32 parameter, gradient and two optimizer states.
TRAINING_BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Moment:
    """Bytes alive at one moment of a run, each [N]: whatever the batch, and for the given batch."""

    fixed: NDArray[np.float64]
    per_batch: NDArray[np.float64]


@dataclass(frozen=True)
class Memory:
    """The moments of a run that may need the most memory."""

    moments: tuple[Moment, ...]

    @property
    def peak_bytes(self) -> NDArray[np.float64]:
        return _array(np.maximum.reduce([moment.fixed + moment.per_batch for moment in self.moments]))

    def largest_batch(self, gpu: Gpu, workload: Workload) -> NDArray[np.int64]:
        """Sequences like the workload's that fit the GPU at once, [N]; 0 where the weights do not."""
        return self.batch_within(gpu.memory_bytes, workload.batch_size)

    def batch_within(self, room: float, batch_size: int, fragmentation: float = 1.0) -> NDArray[np.int64]:
        """Sequences that fit `room` bytes, if the moments are those of `batch_size` sequences.

        `fragmentation` is the memory that the allocator needs over the bytes alive, weights apart.
        """
        per_sequence = fragmentation / batch_size
        fitting = [np.maximum(room - m.fixed, 0.0) / (per_sequence * m.per_batch) for m in self.moments]
        return _array(np.minimum.reduce(fitting)).astype(np.int64)


def encoder_memory(
    shapes: ShapeTable, workload: Workload, settings: Settings, dtype: str, code: Code | None = None
) -> Memory:
    """Peak memory of every shape for one batch in `dtype`, on any GPU; `code` as in `load_memory`."""
    unpads = shapes.architecture.unpads if settings.unpads is None else settings.unpads
    lengths, counts = workload.computed_lengths(unpads=unpads)
    tokens = int((lengths * counts).sum())
    pairs = float((lengths.astype(float) ** 2 * counts).sum())
    load = Load(float(tokens), workload.batch_size, pairs, float(settings.head_tokens(tokens)))
    return load_memory(shapes, load, settings, dtype, code)


def load_memory(
    shapes: ShapeTable, load: Load, settings: Settings, dtype: str, code: Code | None = None
) -> Memory:
    """The same for a batch given by its counts, one for all shapes or one per shape.

    `code` is the implementation that runs, by default the one in CODES for the shapes' architecture.
    """
    code = code or CODES.get(shapes.architecture.name, Code())
    element = BYTES_PER_ELEMENT[dtype]
    if settings.training:
        return _training(shapes, load, settings, element, code)
    count = masked_lm_parameters(shapes) if settings.head == "mlm" else backbone_parameters(shapes)
    held = held_bytes(shapes, load, settings, element, code)
    return Memory((Moment(_array(CONTEXT_BYTES + element * count), held),))


def _training(shapes: ShapeTable, load: Load, settings: Settings, element: int, code: Code) -> Memory:
    saved, depth = saved_bytes(shapes, load, settings, element, code), shapes.num_hidden_layers
    weights = CONTEXT_BYTES + TRAINING_BYTES_PER_PARAMETER * masked_lm_parameters(shapes)
    # Autocast's copies of the weights live until their backward pass, or to the end of forward if recomputed.
    copied = element if element < FLOAT32 else 0
    in_layer, in_head = copied * layer_matrices(shapes), copied * head_matrices(shapes)
    in_layers = copied * layers_matrices(shapes)
    all_copies = in_layers + in_head
    kept, again, unread = saved.per_layer, saved.layer_gradients, saved.unread
    if settings.recompute:
        kept, again, in_layers = saved.layer_input, again + saved.per_layer, in_layer
        unread = 0 * unread
    after_head = in_layers if not settings.recompute else 0 * in_layer
    held = saved.norms + depth * kept - unread
    # The decoder's share of a tied weight's gradient waits for the embedding's.
    tied = FLOAT32 * shapes.architecture.tied_decoder * token_embedding_parameters(shapes)
    return Memory(
        (
            Moment(_array(weights + all_copies), held + saved.head + saved.logits),
            Moment(_array(weights + after_head + in_head), held + saved.head + saved.head_gradients),
            Moment(_array(weights + in_layers + tied), held + again),
        )
    )


def _array(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=float)
