"""The device that calls run on: "cuda", the current CUDA device, or "cpu". torch is imported when asked."""

from __future__ import annotations

import gc
import sys

from hwsearch.measure.failure import reason

CUDA, CPU = "cuda", "cpu"


class DeviceLost(Exception):
    """The CUDA context is gone, as after an illegal access; only a new process can go on."""


def synchronize(device: str) -> None:
    """Wait for what the device was asked to do; raises what went wrong there."""
    if device == CUDA:
        import torch

        torch.cuda.synchronize()


def check_device(device: str) -> None:
    """Free what is left over; raises DeviceLost where nothing else can run in this process."""
    gc.collect()
    if device == CUDA:
        import torch

        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:
            raise DeviceLost(reason(error)) from None


def device_in_use() -> str:
    """ "cuda" once this process has a CUDA context of torch's, else "cpu"; imports nothing."""
    torch = sys.modules.get("torch")
    return CUDA if torch is not None and torch.cuda.is_initialized() else CPU
