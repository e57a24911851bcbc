"""Which GPUs are in this machine: what NVML says, matched to a profile by name, SMs and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.profile import CPU, Gpu

# FP32 cores per SM by compute capability, CUDA Programming Guide, arithmetic throughput.
CORES_PER_SM = {
    (6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64,
    (8, 6): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128,
}  # fmt: skip
# A driver reserves some memory, and ECC takes a sixteenth on GDDR cards.
MEMORY_TOLERANCE = 0.15


@dataclass(frozen=True)
class Detected:
    """One device as NVML describes it, with its profile or the reason why it has none.

    Attributes:
        index: NVML's index; -1 for the CPU.
        nvml_name: NVML's product name; the CPU's name without NVML.
        gpu: the profile that fits, with the memory that NVML reports; None if no profile fits.
        facts: what NVML says, as text, by name.
        note: why no profile fits, or how the device differs from its profile; empty if it does not.
        uuid: NVML's name of this one card; empty where it tells none, and for the CPU.
    """

    index: int
    nvml_name: str
    gpu: Gpu | None
    facts: dict[str, str]
    note: str = ""
    uuid: str = ""


def detect() -> list[Detected]:
    """All NVIDIA GPUs of this machine; where NVML or a driver is missing, or has no GPU, the CPU alone."""
    try:
        import pynvml
    except ImportError:
        return [_cpu("the package nvidia-ml-py is not installed")]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [_cpu(f"NVML finds no NVIDIA driver: {error}")]
    try:
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return [_cpu("NVML finds no GPU")]
        profiles = [load_gpu(name) for name in gpu_names()]
        return [_detect_one(pynvml, index, profiles) for index in range(count)]
    except pynvml.NVMLError as error:
        return [_cpu(f"NVML failed: {error}")]
    finally:
        pynvml.nvmlShutdown()


def _cpu(reason: str) -> Detected:
    gpu = load_gpu(CPU)
    return Detected(-1, gpu.product, gpu, {"cores": str(gpu.sms)}, reason)


def _detect_one(nvml: Any, index: int, profiles: list[Gpu]) -> Detected:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(handle))
    uuid = _text(_ask(nvml, nvml.nvmlDeviceGetUUID, handle) or "")
    memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    cores = _ask(nvml, nvml.nvmlDeviceGetNumGpuCores, handle)
    per_sm = CORES_PER_SM.get(tuple(capability)) if capability is not None else None
    sms = cores // per_sm if cores and per_sm else None
    mig = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    clock = _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    limit = _ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    facts = {"memory": f"{memory / 2**30:.1f} GiB"}
    facts |= {"compute capability": "{}.{}".format(*capability)} if capability else {}
    facts |= {"SMs": str(sms)} if sms else {}
    facts |= {"highest SM clock": f"{clock} MHz"} if clock else {}
    facts |= {"power limit": f"{limit / 1e3:.0f} W"} if limit else {}
    facts |= {"MIG": "on"} if mig and mig[0] else {}
    gpu, note = _match(profiles, name, memory, capability, sms, bool(mig and mig[0]))
    if gpu is not None and limit and limit / 1e3 < 0.95 * gpu.tdp_w:
        note = f"power limit {limit / 1e3:.0f} W is below the profile's {gpu.tdp_w:.0f} W; {note}".rstrip(
            "; "
        )
    return Detected(index, name, gpu, facts, note, uuid)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes before nvidia-ml-py 11.5


def _ask(nvml: Any, question: Any, *arguments: Any) -> Any:
    """The answer, or None where this device or driver does not know."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _match(
    profiles: list[Gpu],
    name: str,
    memory: int,
    capability: tuple[int, int] | None,
    sms: int | None,
    mig: bool,
) -> tuple[Gpu | None, str]:
    """The profile for what NVML says, or None with the reason; never a merely similar GPU."""
    gpu = next((p for p in profiles if name in p.nvml_names), None)
    if gpu is None:
        return None, f"no profile names {name!r} in its nvml_names"
    if mig:
        return None, f"{gpu.name} with MIG on: a slice is not the GPU that the profile describes"
    if capability is not None and tuple(capability) != gpu.compute_capability:
        return None, f"named like {gpu.name}, but the compute capability differs"
    if sms is not None and sms != gpu.sms:
        return None, f"named like {gpu.name}, but has {sms} SMs where the profile has {gpu.sms}"
    if abs(memory / gpu.memory_bytes - 1) <= MEMORY_TOLERANCE:
        return replace(gpu, memory_bytes=memory), ""
    sizes = f"{memory / 2**30:.1f} GiB of memory where the profile has {gpu.memory_bytes / 2**30:.0f}"
    if sms is None:
        return None, f"named like {gpu.name}, but has {sizes}"
    sources = {**gpu.sources, "memory_gib": "NVML on this machine"}
    return replace(gpu, memory_bytes=memory, sources=sources), f"has {sizes}"
