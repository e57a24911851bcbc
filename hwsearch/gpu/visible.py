"""The devices that programs started here would use, and what Ray is told of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from hwsearch.gpu.detect import Detected, detect

# What a node of a Ray cluster offers by this name and a profile's: Ray's own accelerator types do not tell
# 40 from 80 GB, nor PCIe from SXM.
PREFIX = "hw:"


def visible() -> list[Detected]:
    """This machine's devices without those that CUDA_VISIBLE_DEVICES hides; in its order."""
    devices, allowed = detect(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or any(device.index < 0 for device in devices):
        return devices
    chosen = []
    for name in map(str.strip, allowed.split(",")):
        found = next((device for device in devices if _is_named(device, name)), None)
        if found is None:  # CUDA, too, ignores what follows a device that there is not
            break
        chosen.append(found)
    return chosen


def resources(devices: Sequence[Detected]) -> dict[str, int]:
    """How many devices of each profile, as `ray start --resources` takes them: {"hw:t4": 2}."""
    return dict(Counter(f"{PREFIX}{device.gpu.name}" for device in devices if device.gpu is not None))


def _is_named(device: Detected, name: str) -> bool:
    """Whether CUDA_VISIBLE_DEVICES means this device: its index, or the beginning of its UUID."""
    return name == str(device.index) or (name.startswith("GPU-") and device.uuid.startswith(name))
