"""What NVML says about the GPU that runs our code, read before and after; no setting is ever changed.

    watch = watch_cuda()
    before = watch.read()
    ...
    disturbed = taint(before, watch.read())          # None, or what went wrong

What spoils a measurement, so that it is taken again:
- thermal slowdown and power brake: the cooling or the power supply of this moment, not the kernel's doing;
- another process that computes on the card;
- a CPU's cores taken, by others or by more threads than cores, for more than LARGEST_WAIT of the time;
- a memory clock that fell, and an SM clock that fell by more than LARGEST_FALL with no power cap at work.
What is only recorded: the software power cap. A card whose dense work wants more than its power limit is
always capped under load; the clock that it sustains there is its speed, and a repeat would find the same. So
where the cap was at work, a lower SM clock is its doing; what compares kernels under it is timing in turn.

The driver adds up the time in each kind of throttling, so nothing is missed between two readings.
What a card or driver does not tell is None. Without NVML a watch knows nothing, and its note says why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure.cores import waited_seconds

LARGEST_FALL = 0.05
# Of the time, in which a thread that computes had to wait for a core.
LARGEST_WAIT = 0.05

THERMAL, POWER_BRAKE, POWER_CAP = "thermal slowdown", "power brake", "power cap"
# nvml.h's NVML_FI_DEV_CLOCKS_EVENT_REASON_*: SW_THERM_SLOWDOWN and HW_THERM_SLOWDOWN, then
# HW_POWER_BRAKE_SLOWDOWN, then SW_POWER_CAP, in nanoseconds. By number: old bindings lack some names.
COUNTERS = {THERMAL: (269, 270), POWER_BRAKE: (271,), POWER_CAP: (74,)}
# NVML_PERF_POLICY_THERMAL and _POWER, in nanoseconds too: what older drivers tell.
VIOLATIONS = {THERMAL: 1, POWER_CAP: 0}
# Bits of nvmlDeviceGetCurrentClocksEventReasons, for cards without those counters.
BITS = {THERMAL: 0x20 | 0x40, POWER_BRAKE: 0x80, POWER_CAP: 0x4}
IDLE_BIT = 0x1
# The member of a field's value by NVML_VALUE_TYPE_*.
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True)
class Reading:
    """The card at one moment; None for what it does not tell.

    Attributes:
        at: time.monotonic() in seconds.
        sm_mhz, memory_mhz: clocks.
        celsius, watts, limit_watts: temperature, power, the limit that is enforced.
        throttled_ns: nanoseconds spent in each kind of throttling so far.
        reasons: what holds the clocks back now, as NVML's bits.
        joules: energy so far.
        waited_s: seconds that this process's threads were ready and had no core, where those do the work.
        others: numbers of other processes that compute on the card; None where NVML does not list this one,
            as in a container, or before it has a CUDA context.
    """

    at: float
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    celsius: int | None = None
    watts: float | None = None
    limit_watts: float | None = None
    throttled_ns: Mapping[str, int | None] = field(default_factory=dict)
    reasons: int | None = None
    joules: float | None = None
    waited_s: float | None = None
    others: frozenset[int] | None = None


@dataclass(frozen=True)
class Watch:
    """One GPU under NVML's eyes, or nothing at all with the reason in `note`.

    A slice of a MIG card is watched by its whole card, whose energy and processes are not its own: None.
    A CPU tells nothing but whether its cores were to be had (`cores`).
    """

    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    note: str = ""
    nvml: Any = field(default=None, repr=False)
    handle: Any = field(default=None, repr=False)
    is_slice: bool = False
    cores: bool = False

    def read(self) -> Reading:
        """All at once; some milliseconds. The clocks first, while the card may still be busy."""
        if self.nvml is None:
            return Reading(time.monotonic(), waited_s=waited_seconds() if self.cores else None)
        return Reading(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", 1),  # NVML_CLOCK_SM
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", 2),  # NVML_CLOCK_MEM
            reasons=self._reasons(),
            celsius=self._ask("nvmlDeviceGetTemperature", 0),  # NVML_TEMPERATURE_GPU
            watts=_thousandth(self._ask("nvmlDeviceGetPowerUsage")),
            limit_watts=_thousandth(self._ask("nvmlDeviceGetEnforcedPowerLimit")),
            throttled_ns={name: self._throttled(name) for name in COUNTERS},
            joules=self.joules(),
            others=self._others(),
            at=time.monotonic(),
        )

    def joules(self) -> float | None:
        """Energy of the card since some moment; the counter moves about ten times a second."""
        if self.nvml is None or self.is_slice:
            return None
        return _thousandth(self._ask("nvmlDeviceGetTotalEnergyConsumption"))

    def number(self) -> int | None:
        """NVML's index of the card; None where nothing is watched."""
        return None if self.nvml is None else self._ask("nvmlDeviceGetIndex")

    def _ask(self, question: str, *arguments: Any) -> Any:
        return _ask(self.nvml, question, self.handle, *arguments)

    def _reasons(self) -> int | None:
        now = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        # Its older name.
        now = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") if now is None else now
        return None if now is None else int(now)

    def _throttled(self, name: str) -> int | None:
        found = self._ask("nvmlDeviceGetFieldValues", list(COUNTERS[name])) or ()
        counts = [
            int(getattr(one.value, VALUE_MEMBERS[one.valueType]))
            for one in found
            if one.nvmlReturn == 0 and one.valueType < len(VALUE_MEMBERS)
        ]
        if counts:
            return sum(counts)
        violation = (
            self._ask("nvmlDeviceGetViolationStatus", VIOLATIONS[name]) if name in VIOLATIONS else None
        )
        return None if violation is None else int(violation.violationTime)

    def _others(self) -> frozenset[int] | None:
        running = None if self.is_slice else self._ask("nvmlDeviceGetComputeRunningProcesses")
        if running is None:
            return None
        found = {int(process.pid) for process in running}
        # Where we are not listed, the numbers are of another namespace.
        return frozenset(found - {os.getpid(), os.getppid()}) if os.getpid() in found else None


def watch_cuda() -> Watch:
    """A watch over torch's current CUDA device, found by UUID or PCI address, since NVML counts otherwise."""
    import torch

    if not torch.cuda.is_available():
        return Watch(note="no CUDA device: clocks, throttling and energy are not watched")
    # Untyped: torch's stubs lack the parts of the PCI address.
    found: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    address = f"{found.pci_domain_id:08x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    return watch_gpu(str(found.uuid), address)


def watch_cpu() -> Watch:
    """A watch over the CPU's cores."""
    unknown = "" if waited_seconds() is not None else ", nor whether other processes took its cores"
    return Watch(
        cpu_name(), note=f"a CPU's clocks, throttling and energy are not watched{unknown}", cores=True
    )


def watch_gpu(uuid: str, pci_address: str) -> Watch:
    """A watch over the GPU of that UUID, without NVML's prefix, or else at "domain:bus:device.0"."""
    try:
        import pynvml
    except ImportError:
        return Watch(note="the package nvidia-ml-py is not installed: the GPU is not watched")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Watch(note=f"NVML failed: {error}: the GPU is not watched")
    handle = _ask(pynvml, "nvmlDeviceGetHandleByUUID", f"GPU-{uuid}")
    # A slice of a MIG card may have a UUID of its own or pass for its card: either way the card is found.
    handle = _ask(pynvml, "nvmlDeviceGetHandleByPciBusId", pci_address) if handle is None else handle
    if handle is None:
        return Watch(note=f"NVML knows no GPU {uuid} nor one at {pci_address}: the GPU is not watched")
    mig = _ask(pynvml, "nvmlDeviceGetMigMode", handle)
    is_slice = bool(mig and mig[0])
    return Watch(
        name=_text(_ask(pynvml, "nvmlDeviceGetName", handle)),
        uuid=_text(_ask(pynvml, "nvmlDeviceGetUUID", handle)),
        driver=_text(_ask(pynvml, "nvmlSystemGetDriverVersion")),
        note="a MIG slice: its card's clocks, no energy" if is_slice else "",
        nvml=pynvml,
        handle=handle,
        is_slice=is_slice,
    )


def taint(before: Reading, after: Reading) -> str | None:
    """What disturbed the card between two readings, for people to read; None if nothing is known to have.

    The module's docstring says what counts.
    """
    found = []
    for name in (THERMAL, POWER_BRAKE):
        spent = throttled_seconds(before, after, name)
        if spent is None and _bits(before, after) & BITS[name]:
            found.append(name)
        elif spent:
            found.append(f"{name} for {1e3 * spent:.3g} ms")
    capped = throttled_seconds(before, after, POWER_CAP) or _bits(before, after) & BITS[POWER_CAP]
    # A card that idles lowers its clocks by itself.
    idle = _bits(before, after) & IDLE_BIT
    if not idle and not capped:
        found += _fall("SM clock", before.sm_mhz, after.sm_mhz)
    if not idle:
        found += _fall("memory clock", before.memory_mhz, after.memory_mhz)
    others = (before.others or frozenset()) | (after.others or frozenset())
    if others:
        found.append(f"other processes on the card: {', '.join(map(str, sorted(others)))}")
    if before.waited_s is not None and after.waited_s is not None:
        waited, elapsed = after.waited_s - before.waited_s, after.at - before.at
        if waited > LARGEST_WAIT * elapsed:
            found.append(f"no core was free: threads waited {waited:.3g} s in {elapsed:.3g} s")
    return "; ".join(found) or None


def throttled_seconds(before: Reading, after: Reading, name: str) -> float | None:
    """Seconds of throttling of one kind between two readings; None where the card has no such counter."""
    first, last = before.throttled_ns.get(name), after.throttled_ns.get(name)
    return None if first is None or last is None else max(0, last - first) / 1e9


def _bits(before: Reading, after: Reading) -> int:
    return (before.reasons or 0) | (after.reasons or 0)


def _fall(clock: str, before: int | None, after: int | None) -> list[str]:
    if not before or after is None or after >= (1 - LARGEST_FALL) * before:
        return []
    return [f"{clock} fell from {before} to {after} MHz"]


def _ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer, or None where these bindings, this driver or this card have none."""
    try:
        return getattr(nvml, question)(*arguments)
    except (AttributeError, nvml.NVMLError):
        return None


def _thousandth(value: int | None) -> float | None:
    """Watts of milliwatts, joules of millijoules."""
    return None if value is None else value / 1e3


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)  # bytes before nvidia-ml-py 11.5
