"""The name of the profile of the device under a watch."""

from __future__ import annotations

from hwsearch.gpu.detect import detect
from hwsearch.gpu.profile import CPU
from hwsearch.measure.nvml import Watch


def profile_name(watch: Watch) -> str | None:
    """None where no profile fits: NVML tells nothing, the card is of another kind or a slice of one."""
    if watch.cores:
        return CPU
    if watch.nvml is None:
        return None
    number = watch.number()
    # Without a number, cards of one name count as one; those of another have another.
    alike = [
        one for one in detect() if one.index == number or (number is None and one.nvml_name == watch.name)
    ]
    return alike[0].gpu.name if alike and alike[0].gpu is not None else None
