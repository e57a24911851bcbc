"""An NVML with one card, whose answers a test sets; what it lacks raises, as the real one does."""

from __future__ import annotations

import ctypes
import os
from types import ModuleType, SimpleNamespace
from typing import Any


class FakeNvmlError(Exception):
    pass


UUID = "c0ffee00-0000-0000-0000-000000000001"

# An H200 at work.
CARD: dict[str, Any] = {
    "name": "NVIDIA H200",
    "uuid": f"GPU-{UUID}",
    "pci": "00000000:1b:00.0",
    "clocks": {1: 1980, 2: 3201},
    "celsius": 50,
    "milliwatts": 650_000,
    "limit": 700_000,
    "fields": {269: 1_000_000, 270: 0, 271: 0, 74: 5_000_000_000},
    "violations": {},
    "reasons": 0x4,
    "millijoules": 1_000_000,
    "processes": [os.getpid()],
}


class _Value(ctypes.Union):
    _fields_ = [("ullVal", ctypes.c_ulonglong)]


def fake_nvml(card: dict[str, Any], broken: bool = False) -> ModuleType:
    """`card` is read anew at every question; a key that it lacks is a question that it does not answer."""

    def known(key: str) -> Any:
        if key not in card:
            raise FakeNvmlError("Not Supported")
        value = card[key]
        return value() if callable(value) else value

    def init() -> None:
        if broken:
            raise FakeNvmlError("Driver Not Loaded")

    def by_uuid(uuid: str) -> str:
        if uuid == card.get("uuid"):
            return "card"
        raise FakeNvmlError("Not Found")

    def by_pci(address: str) -> str:
        if address == card.get("pci"):
            return "card"
        raise FakeNvmlError("Not Found")

    def fields(handle: str, numbers: list[int]) -> list[SimpleNamespace]:
        values = known("fields")
        return [
            SimpleNamespace(
                nvmlReturn=0 if number in values else 3,
                valueType=3,
                value=_Value(ullVal=values.get(number, 0)),
            )
            for number in numbers
        ]

    def violation(handle: str, policy: int) -> SimpleNamespace:
        if policy not in known("violations"):
            raise FakeNvmlError("Not Supported")
        return SimpleNamespace(violationTime=card["violations"][policy])

    module = ModuleType("pynvml")
    members = {
        "NVMLError": FakeNvmlError,
        "nvmlInit": init,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetHandleByPciBusId": by_pci,
        "nvmlDeviceGetMigMode": lambda handle: known("mig"),
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetName": lambda handle: known("name"),
        "nvmlDeviceGetUUID": lambda handle: known("uuid"),
        "nvmlDeviceGetIndex": lambda handle: known("index"),
        "nvmlDeviceGetClockInfo": lambda handle, kind: known("clocks")[kind],
        "nvmlDeviceGetTemperature": lambda handle, sensor: known("celsius"),
        "nvmlDeviceGetPowerUsage": lambda handle: known("milliwatts"),
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: known("limit"),
        "nvmlDeviceGetFieldValues": fields,
        "nvmlDeviceGetViolationStatus": violation,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: known("reasons"),
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: known("millijoules"),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=number) for number in known("processes")
        ],
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module
