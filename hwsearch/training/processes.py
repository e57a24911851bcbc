"""One process or several: what torchrun started, and how the model is spread over them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hwsearch.errors import HwsearchError


@dataclass(frozen=True)
class Processes:
    """This process among `count`; rank 0 writes files and speaks."""

    rank: int
    count: int
    device: torch.device

    @property
    def speaks(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, value: Any) -> Any:
        """What rank 0 has."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def spread(self, module: nn.Module, layers: nn.ModuleList, *, fsdp: bool) -> nn.Module:
        """The module to call: itself, in DistributedDataParallel, or sharded layer by layer (FSDP2)."""
        if fsdp:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.count,))
            for layer in layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(module, mesh=mesh)
        elif self.count > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(module, device_ids=devices)
        return module


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Joins the group that torchrun set up in the environment; without one it is a single process."""
    count, cuda = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.is_available()
    if count == 1:
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda and local_rank >= torch.cuda.device_count():
        raise HwsearchError(
            f"--nproc-per-node: process {local_rank} has no GPU; accepted: up to {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield Processes(dist.get_rank(), count, device)
    finally:
        # DistributedDataParallel is in reference cycles; freed after its group it may wait for ever.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def gradients_reduced(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it a backward pass averages gradients over processes, or only adds to this process's."""
    if not wanted and isinstance(module, nn.parallel.DistributedDataParallel):
        with module.no_sync():
            yield
        return
    if (set_sync := getattr(module, "set_requires_gradient_sync", None)) is not None:  # FSDP2
        set_sync(wanted)
    yield
