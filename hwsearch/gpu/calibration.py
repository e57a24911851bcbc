"""The constants of the cost model that were fitted to measurements, each block with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EvidenceKind = Literal["fitted", "anchored", "transferred", "calibrated", "measured here"]
CalibrationKind = Literal["fitted", "partly fitted", "transferred", "calibrated", "measured here"]


@dataclass(frozen=True)
class Evidence:
    """Where one block of constants comes from and how far it was off.

    Attributes:
        kind: `fitted` to operator timings of this GPU; `anchored` where only its sustained rate was
            measured and the rest comes from other GPUs; `transferred` where everything does;
            `calibrated` by `hwsearch calibrate` to a user's own; `measured here` for the machine at hand.
        data: the measurements, with their public source.
        rows: how many distinct measured cases the fit used.
        own_error_percent: median absolute error on cases of this GPU that the fit did not see.
        transfer_error_percent: median absolute error when a GPU is predicted with constants fitted on
            the others: of this GPU where it was measured, else the mean over those that were.
        from_gpus: where transferred constants come from; empty if fitted.
        note: what a reader should know before trusting the block.
        low_factor, high_factor: 90 % of the measurements lie between these multiples of the prediction, on
            held-out cases of this GPU or, where constants were transferred, of GPUs left out of the fit.
    """

    kind: EvidenceKind
    data: str
    rows: int
    own_error_percent: float | None = None
    transfer_error_percent: float | None = None
    from_gpus: tuple[str, ...] = ()
    note: str = ""
    low_factor: float | None = None
    high_factor: float | None = None


@dataclass(frozen=True)
class GemmConstants:
    """Constants of `hwsearch.cost.gemm` for one dtype.

    Attributes:
        floor_s: seconds that even the smallest GEMM takes on the device.
        block_overhead_s: seconds a wave of tiles of any size spends outside its multiply loop.
        tile_overhead_s: the same in proportion to the tile's area, for one of 128 x 128.
        step_latency_s: seconds a block needs for 64 elements of k, however small its tile.
        split_s: seconds that adding up the parts of a split k costs, beside its bytes.
        compute_fraction: share of the datasheet's dense rate that tiles in the loop reach at full clock.
        sustained_fraction: share of the dense rate that the power limit leaves to a long product.
        bandwidth_fraction: sustained share of the datasheet's memory bandwidth.
        cached_speedup: how much faster bytes move while L2 holds all of them.
    """

    floor_s: float
    block_overhead_s: float
    tile_overhead_s: float
    step_latency_s: float
    split_s: float
    compute_fraction: float
    sustained_fraction: float
    bandwidth_fraction: float
    cached_speedup: float
    evidence: Evidence


@dataclass(frozen=True)
class SimtConstants:
    """Constants of `hwsearch.cost.gemm_simt`, for products that do not run on tensor cores.

    Attributes:
        floor_s: seconds that even the smallest product takes on the device.
        compute_fraction: of the rate at the clock that `hwsearch.gpu.power` expects.
        bandwidth_fraction: sustained share of the datasheet's memory bandwidth.
    """

    floor_s: float
    compute_fraction: float
    bandwidth_fraction: float
    evidence: Evidence


@dataclass(frozen=True)
class AttentionConstants:
    """Constants of `hwsearch.cost.attention` for one kernel and dtype. Cycles are those of the boost clock.

    Attributes:
        kernel: which of hwsearch.gpu.attention_kernels.KERNELS the numbers describe.
        floor_cycles: what even the smallest attention takes on the device.
        block_overhead_cycles: what a thread block spends outside its key loop and nothing hides.
        compute_fraction: share of the dense rate, at the clock that the power limit allows, that the two
            products reach; above 1 where the exponentials overlap with them.
        exponential_fraction: share of the special-function rate (16 exponentials per clock and SM)
            that the softmax between the products is seen to reach; far above 1 where it hides behind them.
        wave_rounding: 1 where the last wave of blocks takes as long as a full one, 0 where it does not show.
        bytes_per_cycle: what one SM moves to and from L2.
        extra_passes: bytes that the library moves around the kernel, over those of the kernel.
    """

    kernel: str
    floor_cycles: float
    block_overhead_cycles: float
    compute_fraction: float
    exponential_fraction: float
    wave_rounding: float
    bytes_per_cycle: float
    extra_passes: float
    evidence: Evidence


@dataclass(frozen=True)
class StreamConstants:
    """Constants of `hwsearch.cost.stream`, for all dtypes (bytes are bytes).

    Attributes:
        floor_s: seconds that even the smallest kernel takes on the device.
        bandwidth_fraction: sustained share of the datasheet's memory bandwidth.
        bytes_per_cycle: what one SM moves to and from L2 per cycle of the boost clock.
        norm_speed: speed of layer norms over that of the kernel in `hwsearch.cost.stream`, where rows or
            instructions, not bytes, set the time; softmax_speed and gelu_speed likewise.
    """

    floor_s: float
    bandwidth_fraction: float
    bytes_per_cycle: float
    gelu_speed: float
    norm_speed: float
    softmax_speed: float
    evidence: Evidence


@dataclass(frozen=True)
class Calibration:
    """All fitted constants of one GPU; `gemm` and `attention` hold one block per dtype."""

    kind: CalibrationKind
    gemm: dict[str, GemmConstants | SimtConstants]
    attention: dict[str, AttentionConstants]
    stream: StreamConstants
