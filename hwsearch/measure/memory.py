"""The most memory that a call needs at once: what torch allocates on a GPU, what is resident on a CPU.

    before = memory_in_use("cpu")     # ahead of building anything
    ...                               # weights, inputs
    forget_peak("cpu")
    call()
    peak_bytes("cpu", before)         # weights and inputs included

On a CPU that is the resident set of the process, less what it held `before` (the interpreter, torch). Pages
of libraries that the first call touches count, some ten megabytes. None where /proc is missing.
"""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress
from pathlib import Path

from hwsearch.errors import HwsearchError
from hwsearch.measure.device import CUDA

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def memory_in_use(device: str) -> int | None:
    """Bytes; on a GPU those of torch's tensors in this process."""
    if device == CUDA:
        import torch

        return torch.cuda.memory_allocated()
    return _bytes_in(STATUS, "VmRSS")


def forget_peak(device: str) -> None:
    """Begin anew from what is in use; what allocators keep for later goes back to the system. Where a CPU's
    kernel does not allow it, building counts as well."""
    gc.collect()
    if device == CUDA:
        import torch

        torch.cuda.synchronize()
        # Some 32 MB for each stream that has multiplied: those of earlier streams are nobody's any more.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(AttributeError):  # not glibc's: what is freed there may stay resident
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            CLEAR.write_text("5")  # proc(5): resets the peak resident set


def peak_bytes(device: str, before: int | None) -> int | None:
    """The most in use since `forget_peak`, over those in use `before`."""
    if device == CUDA:
        import torch

        peak: int | None = torch.cuda.max_memory_allocated()
    else:
        peak = _bytes_in(STATUS, "VmHWM")
    return None if peak is None or before is None else max(0, peak - before)


def reserved_bytes(device: str) -> int | None:
    """The most that torch's allocator took from a GPU since `forget_peak`; None on a CPU."""
    if device != CUDA:
        return None
    import torch

    return torch.cuda.max_memory_reserved()


def limit_memory(device: str, count: int) -> None:
    """Let this process have no more than `count` bytes for tensors from here on; there is no way back.

    Raises HwsearchError where that cannot be enforced.
    """
    if device == CUDA:
        import torch

        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, count / total))
        return
    held = _bytes_in(STATUS, "VmData")
    if held is None:
        raise HwsearchError("memory: this system does not tell what a process holds; a limit needs Linux")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = held + count if most == resource.RLIM_INFINITY else min(held + count, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def free_bytes() -> int | None:
    """What the machine, or the container (cgroup v2), can still give; None where nothing tells."""
    room = [_bytes_in(MACHINE, "MemAvailable")]
    with suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = (int((GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        room.append(limit - used + _reclaimable())
    return min((each for each in room if each is not None), default=None)


def _reclaimable() -> int:
    """Of what a container uses, files that were read: kept only while nobody else wants the memory."""
    with suppress(OSError):
        for name, count in map(str.split, (GROUP / "memory.stat").read_text().splitlines()):
            if name == "inactive_file":
                return int(count)
    return 0


def _bytes_in(path: Path, name: str) -> int | None:
    """Of a line "NAME:   123 kB"."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0][1]) if found else None
