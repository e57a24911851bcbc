"""Torch's own account of memory on the CPU: what autograd saves, and how many bytes live at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def bytes_saved(model: torch.nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes of the storages, each counted once, that autograd saves in `run`; parameters do not count."""
    parameters = set(_storages(model.parameters()))
    saved: dict[int, int] = {}
    alive: list[Tensor] = []  # no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(saved.values())


def _storages(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.untyped_storage().data_ptr() for tensor in tensors]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that operations make inside the block.

    Attributes:
        peak: the largest sum of bytes alive at once.
        events: in order, a storage's number with its bytes when it is made, with None when it is freed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.events: list[tuple[int, int | None]] = []
        self._alive: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._numbers = count()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = {id(storage) for storage in _tensor_storages((args, kwargs or {}))}
        for storage in _tensor_storages(result):
            if id(storage) not in inputs and storage not in self._alive:
                self._make(storage)
        self.peak = max(self.peak, self.now)
        return result

    def _make(self, storage: torch.UntypedStorage) -> None:
        number, size = next(self._numbers), storage.nbytes()
        self._alive.add(storage)
        self.now += size
        self.events.append((number, size))
        weakref.finalize(storage, self._free, number, size)

    def _free(self, number: int, size: int) -> None:
        self.now -= size
        self.events.append((number, None))


def _tensor_storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
