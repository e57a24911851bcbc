import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import Detected, detect

GIB = 2**30


class FakeNvmlError(Exception):
    pass


def fake_nvml(devices: list[dict[str, Any]], broken: bool = False) -> ModuleType:
    """An NVML with `devices`; a question whose answer a device lacks raises, as the real one does."""

    def answer(key: str) -> Any:
        def ask(handle: dict[str, Any], *_: Any) -> Any:
            if key not in handle:
                raise FakeNvmlError("Not Supported")
            return handle[key]

        return ask

    def init() -> None:
        if broken:
            raise FakeNvmlError("Driver Not Loaded")

    module = ModuleType("pynvml")
    members = {
        "NVMLError": FakeNvmlError,
        "NVML_CLOCK_SM": 1,
        "nvmlInit": init,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(devices),
        "nvmlDeviceGetHandleByIndex": lambda index: devices[index],
        "nvmlDeviceGetName": answer("name"),
        "nvmlDeviceGetUUID": answer("uuid"),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=handle["memory"]),
        "nvmlDeviceGetCudaComputeCapability": answer("capability"),
        "nvmlDeviceGetNumGpuCores": answer("cores"),
        "nvmlDeviceGetMigMode": answer("mig"),
        "nvmlDeviceGetMaxClockInfo": answer("clock"),
        "nvmlDeviceGetEnforcedPowerLimit": answer("power"),
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module


def detected(
    monkeypatch: pytest.MonkeyPatch, *devices: dict[str, Any], broken: bool = False
) -> list[Detected]:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(list(devices), broken))
    return detect()


A100 = {
    "name": "NVIDIA A100-SXM4-80GB", "memory": 80 * GIB, "capability": (8, 0), "cores": 6912, "mig": [0, 0],
    "clock": 1410, "power": 400_000,
}  # fmt: skip


def test_gpus_are_matched_by_name_sms_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # A T4 shows 15 of its 16 GiB under ECC, and its name comes as bytes from old bindings.
    t4 = {"name": b"Tesla T4", "memory": 15 * GIB, "capability": (7, 5), "cores": 2560}
    first, second = detected(monkeypatch, A100, t4)
    assert first.gpu is not None and first.gpu.name == "a100-sxm-80" and first.note == ""
    assert second.gpu is not None and second.gpu.name == "t4"
    assert second.gpu.memory_bytes == 15 * GIB
    assert (first.index, second.index) == (0, 1)
    assert first.facts["SMs"] == "108" and first.facts["power limit"] == "400 W"


def test_pcie_and_sxm_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = detected(
        monkeypatch,
        A100 | {"name": "NVIDIA A100 80GB PCIe", "power": 300_000},
        A100 | {"name": "NVIDIA A100-PCIE-40GB", "memory": 40 * GIB, "power": 250_000},
    )
    assert [d.gpu.name if d.gpu else None for d in found] == ["a100-pcie-80", "a100-pcie-40"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "NVIDIA GeForce RTX 4090 Laptop GPU"}, "no profile names"),
        ({"cores": 98 * 64}, "has 98 SMs where the profile has 108"),
        ({"capability": (8, 6)}, "compute capability differs"),
        ({"mig": [1, 1]}, "MIG on"),
    ],
)
def test_what_is_only_similar_is_not_matched(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], reason: str
) -> None:
    (device,) = detected(monkeypatch, A100 | change)
    assert device.gpu is None
    assert reason in device.note
    assert device.facts["memory"] == "80.0 GiB"


def test_other_memory_is_taken_from_nvml_if_the_sms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    v100 = {"name": "Tesla V100-SXM2-16GB", "memory": 16 * GIB, "capability": (7, 0), "cores": 5120}
    (device,) = detected(monkeypatch, v100)
    assert device.gpu is not None
    assert device.gpu.memory_bytes == 16 * GIB and "16.0 GiB" in device.note
    assert device.gpu.sources["memory_gib"] == "NVML on this machine"
    assert load_gpu("v100").memory_bytes == 32 * GIB
    del v100["cores"]
    (device,) = detected(monkeypatch, v100)
    assert device.gpu is None


def test_a_lowered_power_limit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = detected(monkeypatch, A100 | {"power": 250_000})
    assert device.gpu is not None and "power limit 250 W" in device.note


def test_without_a_driver_the_cpu_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = detected(monkeypatch, broken=True)
    assert device.gpu is not None and device.gpu.name == "cpu" and "Driver Not Loaded" in device.note
    (device,) = detected(monkeypatch)
    assert device.gpu is not None and device.gpu.name == "cpu"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (device,) = detect()
    assert device.gpu is not None and "not installed" in device.note
