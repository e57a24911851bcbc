"""The attention kernels, as the tuner sees them: their configurations, one run of each, and its truth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsearch.kernels import dispatch
from hwsearch.kernels.triton_attention import space
from hwsearch.kernels.triton_attention.configs import (
    DELTA_TILE,
    ROTATION_TILE,
    Tile,
    Tiles,
    default_tiles,
)
from hwsearch.kernels.triton_attention.space import KERNELS as TILES
from hwsearch.kernels.triton_attention.tuned_tiles import tiles_of
from hwsearch.tuning.kernel import Config

if TYPE_CHECKING:
    from torch import Tensor

    from hwsearch.tuning.attention_batch import Batch, Truth

FORWARD, BACKWARD = "attention_forward", "attention_backward"
BACKEND, BACKEND_TRAINING = "attention_backend", "attention_backend_training"
BACKENDS = (BACKEND, BACKEND_TRAINING)

# The interpreter on a CPU takes an A100's tiles.
INTERPRETED = (8, 0)
# Lengths at and about the sides of tiles, for the batch that is checked whole.
ODD_LENGTHS = (1, 0, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 160)
ODD_HEADS = 2


@dataclass(frozen=True)
class AttentionKernel:
    """One of the kernels above on one workload.

    Attributes:
        window: keys to each side, None for all.
        max_seqlen: what calls are given; the configurations depend on it.
        device: "cuda" or "cpu".
        capability: of the CUDA device; None for a CPU. device_names: those it may have.
    """

    name: str
    dtype: str
    head_size: int
    heads: int
    window: int | None
    lengths: tuple[int, ...]
    max_seqlen: int
    device: str
    capability: tuple[int, int] | None
    device_names: tuple[str, ...] = ()

    @property
    def compiles(self) -> bool:
        return self.name in TILES and self.device == "cuda"

    def configurations(self) -> list[Config]:
        if self.name in BACKENDS:
            return [{"backend": name} for name in dispatch.allowed(self.dispatched)]
        found: list[Config] = space.space_of(self.name, *self._call)
        return found

    def default(self) -> Config:
        if self.name in BACKENDS:
            return {"backend": dispatch.choose(self.dispatched).backend}
        default: Config = space.default_config(self.name, *self._call)
        return default

    def compile(self, config: Config) -> str:
        from hwsearch.kernels.triton_attention import compiled

        assert self.capability is not None
        digests = []
        for part in self._compiled_parts(config):
            found = compiled.compile_for(self.capability, part)
            if found.blocks_per_sm == 0:
                raise ValueError(
                    f"{part.kernel} does not fit: {found.registers} registers x {32 * found.warps} threads,"
                    f" {found.shared_bytes:,} bytes of shared memory"
                )
            digests.append(found.digest)
        return "-".join(digests)

    def open(self) -> OpenAttention:
        if self.device == "cuda":
            import torch

            if (name := torch.cuda.get_device_name()) not in self.device_names:
                raise ValueError(f"the first CUDA device is {name}; expected: {', '.join(self.device_names)}")
        return OpenAttention(self)

    @property
    def odd_lengths(self) -> tuple[int, ...]:
        """Of a small batch that is checked whole; to a compiler its tensors are those of the large one."""
        around = set(ODD_LENGTHS)
        if (window := self.window) is not None:
            around |= {window - 1, window, window + 1, 2 * window, 2 * window + 1, 2 * window + 2}
        lengths = sorted({min(length, self.max_seqlen) for length in around if length >= 0}, reverse=True)
        return tuple(lengths if self.device == "cuda" else lengths[::3])  # a CPU takes long for a token

    def tiles(self, config: Config) -> Tiles:
        """`config` as the kernels take it, with the defaults of the kernels that it says nothing of."""
        forward, backward = (config, None) if self.name == FORWARD else (None, config)
        tiles: Tiles = tiles_of(forward, backward, self.default_tiles)
        return tiles

    @property
    def default_tiles(self) -> Tiles:
        capability, dtype, head_size, window, max_seqlen = self._call
        return default_tiles(capability, space.BYTES[dtype], head_size, window is not None, max_seqlen)

    @property
    def dispatched(self) -> dispatch.Call:
        return dispatch.Call(
            self.device,
            self.capability,
            self.dtype,
            self.head_size,
            self.window is not None,
            self.name == BACKEND_TRAINING,
            dispatch.installed_packages(),
            interpreted=is_interpreted(),
        )

    @property
    def _call(self) -> tuple[tuple[int, int], str, int, int | None, int]:
        return self.capability or INTERPRETED, self.dtype, self.head_size, self.window, self.max_seqlen

    def _compiled_parts(self, config: Config) -> list[Any]:
        """A compiled.Configuration for each Triton kernel that `config` launches."""
        from hwsearch.kernels.triton_attention.compiled import Configuration

        tiles = self.tiles(config)
        dtype: Any = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}[self.dtype]

        def part(kernel: str, tile: Tile, split: object = False) -> Configuration:
            window: Any = "global" if self.window is None else "local"
            rope: Any = config["rotate"]
            return Configuration(kernel, dtype, self.head_size, tile, window, bool(split), rope=rope)

        parts = [part("rotate", ROTATION_TILE)] if config["rotate"] == "scratch" else []
        if self.name == FORWARD:
            return [*parts, part("forward", tiles.forward, config["split"])]
        if tiles.short is not None:
            return [*parts, part("short", tiles.short)]
        dkdv, dq = part("dkdv", tiles.dkdv, config["dkdv_split"]), part("dq", tiles.dq, config["dq_split"])
        return [*parts, part("delta", DELTA_TILE), dkdv, dq]


class OpenAttention:
    """The kernel's inputs on the device, and what they should give, worked out once."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel
        self._batch = self._made(kernel.lengths, kernel.heads)
        odd = self._made(kernel.odd_lengths, min(ODD_HEADS, kernel.heads))
        # Of the small batch all; of the large one the longest, the shortest and the last sequence, and the
        # first and the last head.
        all_of_it = self._truth(odd, range(len(odd.lengths)), range(odd.heads))
        lengths = self._batch.lengths
        sequences = (lengths.index(max(lengths)), lengths.index(min(lengths)), len(lengths) - 1)
        self._truths = (odd, all_of_it), (self._batch, self._truth(self._batch, sequences, (0, -1)))

    def call(self, config: Config) -> Callable[[], object]:
        return self._bound(config, self._batch)[0]

    def check(self, config: Config) -> None:
        for batch, truth in self._truths:
            call, outputs = self._bound(config, batch)
            call()
            truth.check(outputs())

    def _made(self, lengths: tuple[int, ...], heads: int) -> Batch:
        from hwsearch.tuning.attention_batch import make_batch

        k = self._kernel
        return make_batch(lengths, heads, k.head_size, k.dtype, k.window, k.max_seqlen, k.device)

    def _truth(self, batch: Batch, sequences: Sequence[int], heads: Sequence[int]) -> Truth:
        from hwsearch.tuning.attention_batch import truth

        chosen = sorted({head % batch.heads for head in heads})
        return truth(batch, sequences, chosen, self._kernel.name in (BACKWARD, BACKEND_TRAINING))

    def _bound(
        self, config: Config, batch: Batch
    ) -> tuple[Callable[[], object], Callable[[], dict[str, Tensor]]]:
        """(a run; what the last run has written, by name)."""
        from hwsearch.tuning import attention_runs as runs

        kernel = self._kernel
        if kernel.name == FORWARD:
            return runs.forward(batch, kernel.tiles(config))
        if kernel.name == BACKWARD:
            return runs.backward(batch, kernel.tiles(config), kernel.default_tiles)
        if kernel.name == BACKEND:
            return runs.backend(batch, str(config["backend"]))
        return runs.backend_training(batch, str(config["backend"]))


def is_interpreted() -> bool:
    """Whether Triton's kernels run on the CPU, as Triton itself reads it."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
