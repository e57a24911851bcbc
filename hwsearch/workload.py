"""What an encoder is asked to process: a batch of sequence lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import HwsearchError
from hwsearch.files import read_text

MAX_SEQUENCES = 10_000_000
# What is predicted where nobody names a workload.
DEFAULT_WORKLOAD = "fixed:512x64"
MAX_LENGTH = 1_048_576
# The seed of the ModernBERT paper's own efficiency notebooks.
LENGTH_SEED = 42

_INTEGER, _NUMBER = r"([0-9]{1,9})", r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_FIXED = re.compile(f"fixed:{_INTEGER}x{_INTEGER}")
_NORMAL = re.compile(rf"normal:{_NUMBER},{_NUMBER},{_INTEGER}\.\.{_INTEGER}x{_INTEGER}")
ACCEPTED = (
    "fixed:512x64 (64 sequences of 512), normal:256,64,32..512x512 (512 lengths drawn from"
    " Normal(256, 64), clamped to 32..512), or a text file with one length a line"
)


@dataclass(frozen=True)
class Workload:
    """One batch.

    Attributes:
        spec: the text it was parsed from; it names the workload in results.
        lengths: real tokens of each sequence.
        padded_length: what a model that does not unpad pads each sequence to.
    """

    spec: str
    lengths: tuple[int, ...]
    padded_length: int

    @property
    def tokens(self) -> int:
        """Real tokens, never padding."""
        return sum(self.lengths)

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    def computed_lengths(self, *, unpads: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct lengths that are computed and how often each occurs, both int64 [D]."""
        if unpads:
            return self._distinct_lengths
        return np.array([self.padded_length]), np.array([self.batch_size])

    @cached_property
    def _distinct_lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        values, counts = np.unique(np.asarray(self.lengths, dtype=np.int64), return_counts=True)
        return values, counts.astype(np.int64)


def parse_workload(spec: str, folder: Path = Path()) -> Workload:
    """Read `fixed:LxB`, `normal:MEAN,STD,MIN..MAXxB` or a file of lengths, its path relative to `folder`.

    Normal lengths are those of the ModernBERT paper's notebooks (`torch.normal` with seed 42, rounded
    down, then clamped), drawn here without torch; the same on every machine. Raises HwsearchError.
    """
    if match := _FIXED.fullmatch(spec):
        length, batch = (int(group) for group in match.groups())
        _check(spec, length, batch)
        return Workload(spec, (length,) * batch, length)
    if match := _NORMAL.fullmatch(spec):
        mean, deviation = float(match[1]), float(match[2])
        low, high, batch = int(match[3]), int(match[4]), int(match[5])
        _check(spec, high, batch)
        if not 1 <= low <= high:
            raise HwsearchError(
                f"workload {spec}: lengths {low}..{high} are empty; the first must be smaller"
            )
        drawn = mean + deviation * _torch_normal(batch)
        lengths = np.clip(drawn.astype(np.int64), low, high)
        return Workload(spec, tuple(lengths.tolist()), high)
    if not spec or not (folder / spec).exists():
        raise HwsearchError(f"workload {spec}: not understood; accepted: {ACCEPTED}")
    return _read_lengths(spec, folder / spec)


def _torch_normal(count: int) -> NDArray[np.float32]:
    """Standard normal numbers as torch's CPU generator draws them: Box-Muller on blocks of 16.

    Each block takes 24 bits of 16 Mersenne twister outputs; the first eight give the radii, the last
    eight the angles. Equal to torch for multiples of 16; other counts take the next multiple's first.
    """
    blocks = -(-count // 16)
    raw = np.random.RandomState(LENGTH_SEED).randint(0, 2**32, (blocks, 16), dtype=np.uint32)
    uniform = (raw & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    radius = np.sqrt(-2 * np.log(1 - uniform[:, :8]))
    angle = np.float32(2 * np.pi) * uniform[:, 8:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]


def _check(where: str, length: int, batch: int) -> None:
    if not 1 <= length <= MAX_LENGTH:
        raise HwsearchError(f"workload {where}: length {length}; accepted: 1 to {MAX_LENGTH:,}")
    if not 1 <= batch <= MAX_SEQUENCES:
        raise HwsearchError(f"workload {where}: {batch} sequences; accepted: 1 to {MAX_SEQUENCES:,}")


def _read_lengths(spec: str, path: Path) -> Workload:
    lengths: list[int] = []
    for number, line in enumerate(read_text(path, max_bytes=100 << 20).splitlines(), start=1):
        if not (text := line.strip()):
            continue
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise HwsearchError(
                f"{path}:{number}: {text[:40]!r} is not a length; accepted: one integer a line"
            )
        lengths.append(int(text))
        _check(f"{path}:{number}", lengths[-1], len(lengths))
    if not lengths:
        raise HwsearchError(f"{path}: holds no lengths; accepted: one integer a line")
    return Workload(spec, tuple(lengths), max(lengths))
