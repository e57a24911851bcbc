"""The mean of several checkpoints' weights, as ModernBERT-base's release is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hwsearch.model.weights import read_weights


def average_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Tensor by tensor, in float64 and back; one file is held at a time beside the sum."""
    total: dict[str, Tensor] = {}
    for path in files:
        for name, tensor in read_weights(path).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(files)).float() for name, tensor in total.items()}
