"""The machine that figures come from: names, versions, clocks and what throttled them."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from typing import Any

import torch

# NVML's clock event reasons (nvml.h); idle and application clocks are no throttling.
THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}


def machine(device: str) -> dict[str, Any]:
    import triton

    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "device": platform.processor() or platform.machine(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": nvml_state().get("driver", "unknown"),
        }
    return found


def nvml_state() -> dict[str, Any]:
    """Clocks, temperature, power and throttle reasons now; what the library refuses is left out."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception as error:
        return {"nvml": f"{type(error).__name__}: {error}"}
    queries: dict[str, Callable[[], Any]] = {
        "driver": lambda: pynvml.nvmlSystemGetDriverVersion(),
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "watts_limit": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        "throttled_by": lambda: _throttles(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "processes": lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    }
    state: dict[str, Any] = {}
    for name, query in queries.items():
        try:
            state[name] = query()
        except Exception:  # a machine may answer some of these and not others
            continue
    return state


def _throttles(reasons: int) -> list[str]:
    return [name for bit, name in THROTTLES.items() if reasons & bit]
