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

import gc
from contextlib import suppress
from pathlib import Path

from hwsearch.measure.device import CUDA

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_in_use(device: str) -> int | None:
    """Bytes; on a GPU those of torch's tensors in this process."""
    if device == CUDA:
        import torch

        return torch.cuda.memory_allocated()
    return _status_bytes("VmRSS")


def forget_peak(device: str) -> None:
    """Begin anew from what is in use. Where a CPU's kernel does not allow it, building counts as well."""
    gc.collect()
    if device == CUDA:
        import torch

        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            CLEAR.write_text("5")  # proc(5): resets the peak resident set


def peak_bytes(device: str, before: int | None) -> int | None:
    """The most in use since `forget_peak`, over those in use `before`."""
    if device == CUDA:
        import torch

        peak: int | None = torch.cuda.max_memory_allocated()
    else:
        peak = _status_bytes("VmHWM")
    return None if peak is None or before is None else max(0, peak - before)


def reserved_bytes(device: str) -> int | None:
    """The most that torch's allocator took from a GPU since `forget_peak`; None on a CPU."""
    if device != CUDA:
        return None
    import torch

    return torch.cuda.max_memory_reserved()


def _status_bytes(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0][1]) if found else None
