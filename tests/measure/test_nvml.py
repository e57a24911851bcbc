"""What a watch reads and what it calls a taint, with an NVML whose answers are set here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hwsearch.measure.nvml import (
    COUNTERS,
    POWER_CAP,
    VALUE_MEMBERS,
    Watch,
    taint,
    throttled_seconds,
    watch_cuda,
    watch_gpu,
)
from tests.measure.fake_nvml import UUID, fake_nvml

WatchCard = Callable[[], Watch]


def test_a_reading_holds_what_the_card_tells(watch_card: WatchCard) -> None:
    watch = watch_card()
    assert (watch.name, watch.driver, watch.note) == ("NVIDIA H200", "580.1", "")
    reading = watch.read()
    assert (reading.sm_mhz, reading.memory_mhz, reading.celsius) == (1980, 3201, 50)
    assert (reading.watts, reading.limit_watts, reading.joules) == (650.0, 700.0, 1000.0)
    assert reading.throttled_ns == {
        "thermal slowdown": 1_000_000,
        "power brake": 0,
        "power cap": 5_000_000_000,
    }
    assert reading.others == frozenset()


def test_what_a_card_does_not_tell_is_none(card: dict[str, Any], watch_card: WatchCard) -> None:
    card.clear()
    card["uuid"] = f"GPU-{UUID}"
    watch = watch_card()
    assert watch.name is None
    reading = watch.read()
    assert set(reading.throttled_ns.values()) == {None}
    values = {name: value for name, value in vars(reading).items() if name not in ("at", "throttled_ns")}
    assert set(values.values()) == {None}
    assert taint(reading, watch.read()) is None


def test_the_card_is_found_by_uuid_then_by_address_and_never_by_index(
    card: dict[str, Any], watch_card: WatchCard
) -> None:
    card["uuid"] = "GPU-another"
    assert watch_card().uuid == "GPU-another"  # by its address
    card["pci"] = "00000000:2a:00.0"
    watch = watch_card()
    assert watch.note == (f"NVML knows no GPU {UUID} nor one at 00000000:1b:00.0: the GPU is not watched")
    assert watch.read().sm_mhz is None


def test_a_slice_has_its_cards_clocks_and_no_energy(card: dict[str, Any], watch_card: WatchCard) -> None:
    card["mig"] = [1, 1]
    watch = watch_card()
    assert "MIG slice" in watch.note
    reading = watch.read()
    assert reading.sm_mhz == 1980 and reading.joules is None and reading.others is None


def test_without_nvml_a_watch_knows_nothing_and_says_so(
    card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card, broken=True))
    assert watch_gpu(UUID, "").note == "NVML failed: Driver Not Loaded: the GPU is not watched"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watch = watch_gpu(UUID, "")
    assert "not installed" in watch.note
    assert taint(watch.read(), watch.read()) is None and watch.joules() is None


def test_without_a_gpu_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert watch_cuda().note.startswith("no CUDA device")


@pytest.mark.parametrize(
    ("number", "said"), [(269, "thermal slowdown"), (270, "thermal slowdown"), (271, "power brake")]
)
def test_time_in_a_slowdown_taints(
    card: dict[str, Any], watch_card: WatchCard, number: int, said: str
) -> None:
    before = watch_card().read()
    card["fields"][number] += 3_000_000
    assert taint(before, watch_card().read()) == f"{said} for 3 ms"


def test_a_power_cap_is_recorded_and_explains_a_lower_clock(
    card: dict[str, Any], watch_card: WatchCard
) -> None:
    before = watch_card().read()
    card["fields"][74] += 250_000_000
    card["clocks"][1] = 1500
    after = watch_card().read()
    assert taint(before, after) is None
    assert throttled_seconds(before, after, POWER_CAP) == 0.25


def test_a_clock_that_falls_for_no_known_reason_taints(card: dict[str, Any], watch_card: WatchCard) -> None:
    card["reasons"] = 0
    before = watch_card().read()
    card["clocks"][1] = 1900  # within the steps of a card that warms up
    assert taint(before, watch_card().read()) is None
    card["clocks"][1] = 1800
    assert taint(before, watch_card().read()) == "SM clock fell from 1980 to 1800 MHz"
    card["reasons"] = 0x1
    assert taint(before, watch_card().read()) is None, "an idle card lowers its clock"


def test_a_memory_clock_that_falls_taints_even_under_a_cap(
    card: dict[str, Any], watch_card: WatchCard
) -> None:
    before = watch_card().read()
    card["clocks"][2] = 2619
    assert taint(before, watch_card().read()) == "memory clock fell from 3201 to 2619 MHz"


def test_other_processes_taint_unless_numbers_are_of_another_namespace(
    card: dict[str, Any], watch_card: WatchCard
) -> None:
    before = watch_card().read()
    card["processes"] = [os.getpid(), os.getppid(), 4_000_001]
    assert taint(before, watch_card().read()) == "other processes on the card: 4000001"
    card["processes"] = [17, 18]
    assert watch_card().read().others is None


def test_older_drivers_tell_by_violations_and_bits(card: dict[str, Any], watch_card: WatchCard) -> None:
    card["fields"] = {}
    card["violations"] = {0: 10, 1: 20}
    before = watch_card().read()
    assert before.throttled_ns == {"thermal slowdown": 20, "power brake": None, "power cap": 10}
    card["violations"] = {0: 10, 1: 2_000_020}
    card["reasons"] = 0x80
    assert taint(before, watch_card().read()) == "thermal slowdown for 2 ms; power brake"


def test_the_real_bindings_have_all_that_is_asked() -> None:
    """The fake answers by the names that the code uses; this holds them against the package."""
    pynvml = pytest.importorskip("pynvml")
    asked = {name for name in vars(fake_nvml({})) if name.startswith("nvml")}
    assert {name for name in asked if not hasattr(pynvml, name)} == set()
    fields = ("SW_THERM_SLOWDOWN", "HW_THERM_SLOWDOWN", "HW_POWER_BRAKE_SLOWDOWN", "SW_POWER_CAP")
    numbers = [getattr(pynvml, f"NVML_FI_DEV_CLOCKS_EVENT_REASON_{name}") for name in fields]
    assert numbers == [number for counter in COUNTERS.values() for number in counter]
    found = pynvml.c_nvmlFieldValue_t(valueType=pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, nvmlReturn=0)
    found.value.ullVal = 1 << 40
    assert getattr(found.value, VALUE_MEMBERS[found.valueType]) == 1 << 40
    assert pynvml.NVML_CLOCK_SM == 1 and pynvml.NVML_CLOCK_MEM == 2
    assert pynvml.NVML_PERF_POLICY_POWER == 0 and pynvml.NVML_PERF_POLICY_THERMAL == 1


@pytest.mark.gpu
def test_on_a_gpu_the_watch_is_over_torchs_device() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    watch = watch_cuda()
    assert watch.name == torch.cuda.get_device_name(), watch.note
    assert (watch.read().sm_mhz or 0) > 0
