"""The batches that benchmarks/attention.py times, in the order in which it times them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from hwsearch.shape.flops import visible_pairs
from hwsearch.workload import parse_workload

# Keys to each side under local_attention 128.
LOCAL_WINDOW = 64
# FlexAttention's blocks; batches are whole multiples of it.
BLOCK = 128
# Forward and backward by the convention of the FlashAttention papers: two products, then five.
FLOPS_PER_PAIR = {"forward": 4.0, "backward": 10.0}

# About 128k tokens each. The mixes are one batch of the ModernBERT paper's two variable sets (512 and 32
# documents a batch); `tiny` is what breaks kernels whose grid is sequences x longest sequence.
WORKLOADS = {
    "64": "fixed:64x2048",
    "512": "fixed:512x256",
    "2048": "fixed:2048x64",
    "8192": "fixed:8192x16",
    "mix-512": "normal:256,64,32..512x512",
    "mix-8192": "normal:4096,1024,32..8192x32",
    "tiny": "uniform:16..64x4096",
}
SMOKE_WORKLOADS = {"smoke": "normal:20,10,1..40x3", "smoke-equal": "fixed:16x2"}


@dataclass(frozen=True)
class Case:
    """Attention of one layer over one batch: `window` None is global."""

    workload: str
    heads: int
    head_size: int
    window: int | None

    @property
    def name(self) -> str:
        return f"{self.workload} h{self.heads} d{self.head_size} {'local' if self.window else 'global'}"

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Real lengths; the last sequences lose up to 127 tokens, so that the batch is whole BLOCKs."""
        if self.workload in SMOKE_WORKLOADS:
            return _drawn(SMOKE_WORKLOADS[self.workload])
        lengths = list(_drawn(WORKLOADS[self.workload]))
        surplus = sum(lengths) % BLOCK
        for index in reversed(range(len(lengths))):
            cut = min(surplus, lengths[index] - 1)
            lengths[index] -= cut
            surplus -= cut
        return tuple(lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def useful_flops(self, direction: str) -> float:
        """Of the query-key pairs that are visible, and nothing else; `direction` forward or backward."""
        pairs = visible_pairs(self.lengths, self.window)
        return FLOPS_PER_PAIR[direction] * pairs * self.heads * self.head_size


@cache
def _drawn(spec: str) -> tuple[int, ...]:
    if spec.startswith("uniform:"):
        span, count = spec.removeprefix("uniform:").split("x")
        low, high = (int(end) for end in span.split(".."))
        return tuple(np.random.RandomState(42).randint(low, high + 1, int(count)).tolist())
    return parse_workload(spec).lengths


def cases() -> list[Case]:
    """Most important first: the cases that targets are set for, head size 128, then 12 heads."""
    order = ("2048", "8192", "tiny", "mix-512", "mix-8192", "512", "64")
    return [
        Case(workload, heads, head_size, window)
        for heads, head_size in ((16, 64), (16, 128), (12, 64), (12, 128))
        for workload in order
        for window in (None, LOCAL_WINDOW)
    ]


def target_cases() -> int:
    """How many of `cases` come before the sweep."""
    return 2 * len(WORKLOADS)


def smoke_cases() -> list[Case]:
    return [Case("smoke", 1, 32, 8), Case("smoke-equal", 1, 32, None)]
