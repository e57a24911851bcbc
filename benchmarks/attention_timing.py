"""How often versions are timed here, and what the card itself reaches."""

from __future__ import annotations

import torch

from hwsearch.measure.timing import Timing, interleaved

# The interpreter is slow, and what it takes is no result.
ROUNDS = {"cuda": 10, "cpu": 2}


def ceilings(device: str, smoke: bool) -> dict[str, float]:
    """FLOP/s of a square bf16 product of random numbers; bytes/s of a copy, read and written."""
    side, count = (256, 1 << 16) if smoke else (8192, 1 << 31)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(count // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    found = interleaved(
        {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, device, ROUNDS[device]
    )
    work = {"product": 2.0 * side**3, "copy": 2.0 * source.nbytes}
    names = {"product": "matmul_flops_per_s", "copy": "copy_bytes_per_s"}
    return {names[n]: work[n] / t.seconds for n, t in found.items() if isinstance(t, Timing)}
