"""What bounds a price: the resource that would shorten it most if it were a little faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

from hwsearch.gpu.calibration import AttentionConstants, GemmConstants, SimtConstants, StreamConstants
from hwsearch.gpu.profile import Gpu

# compute: multiply-add units; cache: bytes within L2; exponentials: those of softmax; instructions: of norms,
# whose rows wait for each other; latency: of loads that no other work hides; overhead: launches, prologues.
Bound = Literal["compute", "power", "memory", "cache", "exponentials", "instructions", "latency", "overhead"]
NUDGE = 1.01
_Constants = TypeVar("_Constants", GemmConstants, SimtConstants, AttentionConstants, StreamConstants)


def find_bound(gpu: Gpu, dtype: str, price: Callable[[Gpu], float]) -> Bound:
    """The resource of which `price`, seconds on a GPU, has most; overhead is what follows none of them."""
    seconds = price(gpu)
    all_of_it = seconds * (1 - 1 / NUDGE)
    follows: dict[Bound, float] = {
        bound: (seconds - price(nudged)) / all_of_it for bound, nudged in _nudged(gpu, dtype).items()
    }
    follows["overhead"] = 1 - sum(follows.values())
    return max(follows, key=lambda bound: follows[bound])


def _nudged(gpu: Gpu, dtype: str) -> dict[Bound, Gpu]:
    """`gpu` with one resource a little faster, by what bounds where it is short."""
    now = gpu.calibration
    gemm, attention, stream = now.gemm[dtype], now.attention[dtype], now.stream
    # Constants of tensor cores hold the power limit as a share of the rate; others follow the TDP.
    same_power, more_power = gemm, gemm
    if isinstance(gemm, GemmConstants):
        same_power = replace(gemm, sustained_fraction=gemm.sustained_fraction / NUDGE)
        more_power = replace(gemm, sustained_fraction=gemm.sustained_fraction * NUDGE)
    rates = {name: rate * NUDGE for name, rate in gpu.dense_flops_per_s.items()}
    faster_softmax = _faster(attention, "exponential_fraction")
    faster_rows = _faster(stream, "norm_speed", "gelu_speed", "softmax_speed")
    in_cache = replace(
        now,
        attention={**now.attention, dtype: _faster(attention, "bytes_per_cycle")},
        stream=_faster(stream, "bytes_per_cycle"),
    )
    changed = {
        "compute": replace(now, gemm={**now.gemm, dtype: same_power}),
        "power": replace(now, gemm={**now.gemm, dtype: more_power}),
        "exponentials": replace(now, attention={**now.attention, dtype: faster_softmax}),
        "instructions": replace(now, stream=faster_rows),
    }
    return {
        "compute": replace(gpu, dense_flops_per_s=rates, calibration=changed["compute"]),
        "power": replace(gpu, tdp_w=gpu.tdp_w * NUDGE, calibration=changed["power"]),
        "memory": replace(gpu, bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s * NUDGE),
        "cache": replace(gpu, calibration=in_cache),
        "exponentials": replace(gpu, calibration=changed["exponentials"]),
        "instructions": replace(gpu, calibration=changed["instructions"]),
    }


def _faster(block: _Constants, *names: str) -> _Constants:
    return replace(block, **{name: getattr(block, name) * NUDGE for name in names})
