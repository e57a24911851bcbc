"""Floating point operations of an encoder on a list of sequence lengths (multiply-add = 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from hwsearch.shape.encoder_shape import EncoderShape
from hwsearch.shape.parameters import head_matrices, layers_matrices


def visible_pairs(lengths: Sequence[int], window: int | None) -> int:
    """Query-key pairs that attention scores: s^2 per sequence, or those with |i - j| <= window."""
    s = np.asarray(lengths, dtype=np.int64)
    if window is None:
        return int((s * s).sum())
    w = np.minimum(window, np.maximum(s - 1, 0))
    # Every row sees 2w + 1 keys; the w rows at either end miss 1 + 2 + ... + w of them.
    return int((s * (2 * w + 1) - w * (w + 1)).sum())


@dataclass(frozen=True)
class Flops:
    """Forward operations by part, summed over layers.

    The attention parts hold QK^T, PV and, for relative positions, the disentangled terms; all
    weight matrices of the layers are in `matrices`, the masked-LM head in `head`.
    """

    matrices: int
    attention_global: int
    attention_local: int
    head: int

    @property
    def forward(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))

    @property
    def training(self) -> int:
        """Forward and backward: each product has two gradients, so 3x (no recomputation)."""
        return 3 * self.forward


def count_flops(shape: EncoderShape, lengths: Sequence[int], *, head_tokens: int = 0) -> Flops:
    """FLOPs of one forward pass over sequences of `lengths` real tokens.

    Args:
        shape: the encoder.
        lengths: tokens per sequence; zero is allowed. Padding is the caller's to add.
        head_tokens: positions that go through the masked-LM head (0 for the backbone alone).
    """
    a, h = shape.architecture, shape.hidden_size
    layers, global_layers = shape.num_hidden_layers, shape.num_global_layers
    matrices = int(sum(lengths)) * 2 * int(layers_matrices(shape))
    attention_global = 4 * h * visible_pairs(lengths, None) * global_layers
    attention_local = 4 * h * visible_pairs(lengths, shape.window) * (layers - global_layers)
    if a.position == "relative":
        # Content-to-position and position-to-content: each query (key) meets every row of the
        # relative table it can reach, and the table is projected to keys and queries per layer.
        reachable = sum(s * min(2 * s, a.position_rows) for s in lengths)
        attention_global += layers * (2 * 2 * h * reachable + 2 * 2 * a.position_rows * h * h)
    head = head_tokens * 2 * int(head_matrices(shape))
    return Flops(matrices, attention_global, attention_local, head)
