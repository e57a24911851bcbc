"""One measurement on the CPU, under a fake NVML that throttles when a test says so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from hwsearch.measure import conditions, sample
from hwsearch.measure.conditions import Conditions
from hwsearch.measure.energy import joules
from hwsearch.measure.nvml import Watch
from hwsearch.measure.sample import measure

WatchCard = Callable[[], Watch]


def nap() -> None:
    time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "PAUSE_SECONDS", 0.0)


def test_a_clean_measurement_is_a_row(watch_card: WatchCard) -> None:
    found = measure(nap, "cpu", watch_card(), precision=0.5)
    assert 0.002 <= found.p20 <= found.seconds <= found.p80
    assert found.n >= sample.FEWEST_SAMPLES and found.error <= 0.5
    assert found.conditions == Conditions(1980, 3201, 50, 650.0, 700.0, 0.0, None, 1)
    row = json.loads(json.dumps(found.row()))
    assert row["seconds"] == found.seconds and row["sm_mhz"] == 1980 and "conditions" not in row


def test_without_nvml_it_is_times_alone() -> None:
    found = measure(nap, "cpu", Watch(note="no NVML"), precision=0.5, energy=True)
    assert found.seconds >= 0.002
    assert found.joules is None
    assert found.conditions == Conditions(None, None, None, None, None, None, None, 1)


def test_a_disturbed_measurement_is_taken_again(card: dict[str, Any], watch_card: WatchCard) -> None:
    readings = 0

    def heat() -> dict[int, int]:
        nonlocal readings
        readings += 1
        # Three questions a reading: the second reading finds the card throttled, later ones do not.
        return {269: 0 if readings <= 3 else 10**6, 270: 0, 271: 0, 74: 0}

    card["fields"] = heat
    found = measure(nap, "cpu", watch_card(), precision=0.5)
    assert (found.conditions.taint, found.conditions.tries) == (None, 2)


def test_one_that_stays_disturbed_is_marked(card: dict[str, Any], watch_card: WatchCard) -> None:
    card["processes"] = [*card["processes"], 4_000_001]
    found = measure(nap, "cpu", watch_card(), precision=0.5)
    assert (found.conditions.taint, found.conditions.tries) == ("other processes on the card: 4000001", 3)


def test_samples_go_on_until_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([1.0, 2.0, 1.0, 2.0, 1.0, *[1.5] * 100])
    monkeypatch.setattr(sample, "sample", lambda plan: next(draws))
    found = measure(lambda: None, "cpu", Watch())
    assert found.n == sample.MOST_SAMPLES and found.error > 0.005
    draws = iter([1.0, 1.01, 0.99, 1.0, 1.0, *[1.0] * 100])
    found = measure(lambda: None, "cpu", Watch())
    assert 5 < found.n < 60 and found.error <= 0.005 and found.seconds == 1.0


def test_a_slow_call_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "LONGEST_SECONDS", 0.0)
    assert measure(nap, "cpu", Watch(), precision=0.0).n == 3


def test_joules_of_a_call_between_ticks_of_the_counter(card: dict[str, Any], watch_card: WatchCard) -> None:
    """A card that draws 2 J a call; its counter moves every tenth of a second."""
    calls, shown, moved = 0, 0, time.monotonic()

    def call() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)

    def counter() -> int:
        nonlocal shown, moved
        if time.monotonic() - moved >= 0.1:
            shown, moved = 2000 * calls, time.monotonic()
        return shown

    card["millijoules"] = counter
    assert joules(call, watch_card(), seconds=0.3) == pytest.approx(2.0, rel=1e-6)


def test_a_counter_that_stands_still_or_is_missing_tells_nothing(
    card: dict[str, Any], watch_card: WatchCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsearch.measure.energy.LONGEST_TICK_SECONDS", 0.05)
    assert joules(nap, watch_card(), seconds=0.01) is None
    del card["millijoules"]
    assert joules(nap, watch_card(), seconds=0.01) is None
