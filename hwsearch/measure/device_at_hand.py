"""The device that `hwsearch measure` times on, found without opening CUDA in this process."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import Detected, detect
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.measure.child import START_SECONDS, Child
from hwsearch.measure.device import CUDA
from hwsearch.measure.encoder import OpenBench, open_bench
from hwsearch.measure.failure import Failure


@dataclass(frozen=True)
class DeviceAtHand:
    """
    Attributes:
        device, index: as hwsearch.measure.encoder.EncoderTimer takes them.
        product: what its maker calls it.
        gpu: its profile, with the memory that it has; None where no profile fits.
        dtype: what it is served with.
    """

    device: str
    index: int
    product: str
    gpu: Gpu | None
    dtype: str

    def __str__(self) -> str:
        if self.device == CPU:
            return f"{self.product} (cpu)"
        profile = "no profile fits" if self.gpu is None else self.gpu.name
        return f"{self.product} ({self.device}:{self.index}, {profile})"


def device_at_hand(name: str | None, bench: OpenBench = open_bench) -> DeviceAtHand:
    """The device `name`: "cpu", "cuda", "cuda:1"; None is the first GPU, or the CPU where there is none.

    Raises HwsearchError for another name, and for a GPU that is not there.
    """
    if name is not None and not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise HwsearchError(f"device: {name!r}; accepted: cpu, cuda, cuda:1")
    found = [] if name == CPU else detect()
    if name == CPU or (name is None and found[0].index < 0):
        gpu = load_gpu(CPU)
        return DeviceAtHand(CPU, 0, gpu.product, gpu, gpu.default_dtype)
    index = int((name or "").partition(":")[2] or 0)
    # Which GPUs a process sees, and in which order, CUDA alone knows.
    with Child(bench, CUDA, index) as child:
        described = child.call("describe", timeout=START_SECONDS)
    if isinstance(described, Failure):
        why = described.reason.partition("HwsearchError: ")[2] or str(described)
        raise HwsearchError(f"{why}; `--device cpu` measures on the CPU")
    profile, product, dtype = described
    return DeviceAtHand(CUDA, index, product, _gpu(profile, found), dtype)


def _gpu(profile: str | None, found: list[Detected]) -> Gpu | None:
    alike = [one.gpu for one in found if one.gpu is not None and one.gpu.name == profile]
    return alike[0] if alike else None
