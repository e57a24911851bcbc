"""The machine at hand as a `Gpu`: cores for SMs, rates measured in one to two seconds."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from hwsearch.gpu.calibration import AttentionConstants, Calibration, Evidence, GemmConstants, StreamConstants
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.kernels.cpu_name import cpu_name, cpuinfo

HERE = "measured on this machine"
# In turns, so that what disturbs the machine for half a second spoils no rate.
ROUNDS, SECONDS_PER_ROUND = 4, 0.08
GEMM_SIZE = 1024
COPY_BYTES_LIMIT = 2**27
HEADS, TOKENS, HEAD_SIZE = 4, 256, 64
# Of the kernels' instructions: a core's rates are measured, bytes alone set the time of a stream.
UNLIMITED = 1e6


@functools.cache
def measure_cpu() -> Gpu:
    """A profile of this machine for fp32: facts from the operating system, rates timed with numpy.

    Rates are what this process reaches now, so every `*_fraction` is 1 against the measured rate. A
    CPU core has no thread blocks: tile overhead, operand feed, exponentials and rows are in the rates.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    product, clock_source, boost_hz = cpu_name(), "/proc/cpuinfo or cpufreq", _clock_hz()
    if boost_hz is None:
        clock_source, boost_hz = "unknown here: 2 GHz assumed, used in no prediction", 2e9
    cache_bytes, cache_source = _last_cache_bytes()
    gemm_rate, bandwidth, attention_rate, cached_speedup = _measure(cache_bytes)
    evidence = Evidence("measured here", f"numpy, fp32, {HERE}", rows=1, note="fastest of many timings")
    gemm = GemmConstants(1e-6, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, evidence)
    fraction = attention_rate / gemm_rate
    # What a core moves while the bytes stay in its caches, per cycle of the clock written here.
    per_cycle = cached_speedup * bandwidth / (cores * boost_hz)
    attention = AttentionConstants(
        "efficient", 2e-6 * boost_hz, 0.0, fraction, 1e6, 0.0, per_cycle, 0.0, evidence
    )
    stream = StreamConstants(1e-6, 1.0, per_cycle, UNLIMITED, UNLIMITED, UNLIMITED, evidence)
    facts = {
        "architecture": "platform.machine()",
        "compute_capability": "a CPU has none: 0.0",
        "sms": "cores that this process may use",
        "boost_mhz": clock_source,
        "dense_tflops.fp32": f"numpy {GEMM_SIZE}^3 product, {HERE}",
        "bandwidth_gb_per_s": f"numpy copy of an array larger than the cache, {HERE}",
        "memory_gib": "os.sysconf",
        "l2_mib": cache_source,
        "tdp_w": "unknown: 0",
        **dict.fromkeys(
            (
                "shared_memory_per_sm_kib",
                "shared_memory_per_block_kib",
                "registers_per_sm",
                "threads_per_sm",
                "blocks_per_sm",
            ),
            "a CPU has none: 0",
        ),
    }
    return Gpu(
        name=CPU,
        product=product,
        nvml_names=(),
        architecture=f"{platform.machine()} CPU",
        compute_capability=(0, 0),
        sms=cores,
        boost_hz=boost_hz,
        dense_flops_per_s={"fp32": gemm_rate},
        bandwidth_bytes_per_s=bandwidth,
        memory_bytes=_memory_bytes(),
        l2_bytes=cache_bytes,
        tdp_w=0.0,
        shared_memory_per_sm_bytes=0,
        shared_memory_per_block_bytes=0,
        registers_per_sm=0,
        threads_per_sm=0,
        blocks_per_sm=0,
        sources=facts,
        calibration=Calibration("measured here", {"fp32": gemm}, {"fp32": attention}, stream),
    )


def _measure(cache_bytes: int) -> tuple[float, float, float, float]:
    """FLOP/s of a product, bytes/s of a copy, FLOP/s of attention, speedup of a copy within the cache."""
    import numpy as np

    random = np.random.default_rng(0)
    a, b = random.random((2, GEMM_SIZE, GEMM_SIZE), dtype=np.float32)
    product = np.empty_like(a)
    # Beyond most caches; a virtual machine sees its host's whole cache but owns only a share of it.
    source = np.ones(min(max(2 * cache_bytes, 2**25), COPY_BYTES_LIMIT) // 4, dtype=np.float32)
    target = np.empty_like(source)
    small, small_target = source[: 2**16], target[: 2**16]
    q, k, v = random.random((3, HEADS, TOKENS, HEAD_SIZE), dtype=np.float32)

    def attention() -> object:
        scores = q @ k.swapaxes(1, 2)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        return (scores @ v) / scores.sum(axis=-1, keepdims=True)

    product_s, copy_s, cached_s, attention_s = _best_seconds(
        lambda: np.matmul(a, b, out=product),
        lambda: np.copyto(target, source),
        lambda: np.copyto(small_target, small),
        attention,
    )
    bandwidth, cached = 2 * source.nbytes / copy_s, 2 * small.nbytes / cached_s
    attention_rate = 4 * HEADS * TOKENS * TOKENS * HEAD_SIZE / attention_s
    return 2 * GEMM_SIZE**3 / product_s, bandwidth, attention_rate, max(1.0, cached / bandwidth)


def _best_seconds(*runs: Callable[[], object]) -> list[float]:
    """The fastest of many times of each."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for place, run in enumerate(runs):
            end = time.perf_counter() + SECONDS_PER_ROUND
            while time.perf_counter() < end:
                start = time.perf_counter()
                run()
                best[place] = min(best[place], time.perf_counter() - start)
    return best


def _clock_hz() -> float | None:
    try:
        path = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
        return float(path.read_text(encoding="utf-8")) * 1e3
    except (OSError, ValueError):
        mhz = cpuinfo("cpu MHz")
        return float(mhz) * 1e6 if mhz else None


def _last_cache_bytes() -> tuple[int, str]:
    units = {"K": 2**10, "M": 2**20}
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="utf-8").strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    if not sizes:
        return 2**23, "unknown here: 8 MiB assumed"
    return max(sizes), "largest cache in /sys/devices/system/cpu"


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33
