"""Watches every load and store of a kernel that Triton's interpreter runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter


@contextmanager
def watched_memory(races: bool = True) -> Iterator[None]:
    """Fail where a kernel leaves the tensors that are passed to it: their elements, not their storage.

    With `races` also where it stores an element twice, or loads one that it stores. Nothing is watched
    of kernels that run on a GPU.
    """
    memory, launch = interpreter._interpreter, interpreter.GridExecutor.__call__

    def watched_launch(executor, *arguments, **keywords):
        watch = _Watch(memory, [x for x in (*arguments, *keywords.values()) if isinstance(x, Tensor)])
        interpreter._interpreter = watch
        try:
            launch(executor, *arguments, **keywords)
        finally:
            interpreter._interpreter = memory
        if races:
            watch.check_races()

    interpreter.GridExecutor.__call__ = watched_launch
    try:
        yield
    finally:
        interpreter.GridExecutor.__call__ = launch


class _Watch:
    """The interpreter's memory during one launch."""

    def __init__(self, memory, tensors: list[Tensor]) -> None:
        self.memory = memory
        self.inside = np.unique(np.concatenate([_addresses(x) for x in tensors]))
        self.loaded: list[np.ndarray] = []
        self.stored: list[np.ndarray] = []

    def __getattr__(self, name: str):
        return getattr(self.memory, name)

    def load(self, pointers, mask, *rest):
        self.loaded.append(self._checked("load", pointers, mask))
        return self.memory.load(pointers, mask, *rest)

    def store(self, pointers, value, mask):
        self.stored.append(self._checked("store", pointers, mask))
        return self.memory.store(pointers, value, mask)

    def _checked(self, what: str, pointers: np.ndarray, mask: np.ndarray) -> np.ndarray:
        touched = np.broadcast_to(pointers, mask.shape)[mask]
        nearest = self.inside.take(np.searchsorted(self.inside, touched), mode="clip")
        outside = nearest != touched
        assert not outside.any(), f"{what} of {outside.sum()} elements outside of the kernel's tensors"
        return touched

    def check_races(self) -> None:
        stored, times = np.unique(np.concatenate([np.empty(0, np.uint64), *self.stored]), return_counts=True)
        assert not (times > 1).any(), f"{(times > 1).sum()} elements are stored more than once"
        both = np.isin(stored, np.concatenate([np.empty(0, np.uint64), *self.loaded]))
        assert not both.any(), f"{both.sum()} elements are loaded and stored by one launch"


def _addresses(x: Tensor) -> np.ndarray:
    offsets = torch.zeros((), dtype=torch.int64)
    for count, stride in zip(x.shape, x.stride(), strict=True):
        offsets = offsets[..., None] + torch.arange(count) * stride
    return x.data_ptr() + offsets.numpy().astype(np.uint64).ravel() * x.element_size()
