"""The profile of the card under a watch, also where NVML counts otherwise than CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import Detected
from hwsearch.measure import watched_profile
from hwsearch.measure.nvml import Watch, watch_cpu
from hwsearch.measure.watched_profile import profile_name

DETECTED = [
    Detected(0, "Tesla T4", load_gpu("t4"), {}),
    Detected(1, "NVIDIA H200", load_gpu("h200-sxm"), {}),
    Detected(2, "NVIDIA H900", None, {}, "no profile names it"),
]


@pytest.fixture(autouse=True)
def three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_profile, "detect", lambda: DETECTED)


def test_the_card_is_found_by_its_number_and_without_one_by_its_name(
    card: dict[str, Any], watch_card: Callable[[], Watch]
) -> None:
    assert profile_name(watch_card()) == "h200-sxm"  # the fake tells no number
    for number, name in enumerate(("t4", "h200-sxm", None)):
        card["index"] = number
        assert profile_name(watch_card()) == name


def test_what_is_not_watched_has_no_profile_but_the_cpu_has() -> None:
    assert profile_name(Watch(note="NVML failed")) is None
    assert profile_name(watch_cpu()) == "cpu"
