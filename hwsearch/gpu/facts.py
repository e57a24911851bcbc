"""The facts of a GPU as rows to print: name, value with its unit, source."""

from __future__ import annotations

from dataclasses import dataclass

from hwsearch.gpu.calibration import Evidence
from hwsearch.gpu.profile import Gpu


@dataclass(frozen=True)
class Fact:
    name: str
    value: str
    source: str


def gpu_facts(gpu: Gpu) -> tuple[Fact, ...]:
    """Datasheet facts in the profile's order, each with its source."""
    kib = 2**10
    rows = [
        ("architecture", gpu.architecture),
        ("compute_capability", ".".join(map(str, gpu.compute_capability))),
        ("sms", f"{gpu.sms}"),
        ("boost_mhz", f"{gpu.boost_hz / 1e6:,.0f} MHz"),
        *((f"dense_tflops.{d}", f"{r / 1e12:,.4g} TFLOP/s") for d, r in gpu.dense_flops_per_s.items()),
        ("bandwidth_gb_per_s", f"{gpu.bandwidth_bytes_per_s / 1e9:,.0f} GB/s"),
        ("memory_gib", f"{gpu.memory_bytes / 2**30:,.4g} GiB"),
        ("l2_mib", f"{gpu.l2_bytes / 2**20:,.4g} MiB"),
        ("tdp_w", f"{gpu.tdp_w:,.0f} W"),
        ("shared_memory_per_sm_kib", f"{gpu.shared_memory_per_sm_bytes // kib} KiB"),
        ("shared_memory_per_block_kib", f"{gpu.shared_memory_per_block_bytes // kib} KiB"),
        ("registers_per_sm", f"{gpu.registers_per_sm:,}"),
        ("threads_per_sm", f"{gpu.threads_per_sm:,}"),
        ("blocks_per_sm", f"{gpu.blocks_per_sm}"),
    ]
    return tuple(Fact(name, value, gpu.sources[name]) for name, value in rows)


def gpu_evidence(gpu: Gpu) -> tuple[tuple[str, Evidence], ...]:
    """Every block of fitted constants by name ("gemm bf16", "attention bf16", "stream") with its evidence."""
    calibration = gpu.calibration
    return (
        *((f"gemm {dtype}", c.evidence) for dtype, c in calibration.gemm.items()),
        *((f"attention {dtype}", c.evidence) for dtype, c in calibration.attention.items()),
        ("stream", calibration.stream.evidence),
    )
