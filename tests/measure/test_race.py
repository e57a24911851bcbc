"""Races against simulated noise with fixed seeds, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hwsearch.measure.race import compare, finals, interval


def noisy(true: dict[str, float], noise: float, seed: int) -> Callable[[str], float]:
    """Seconds with normal noise in the logarithm."""
    draw = np.random.default_rng(seed).normal
    return lambda name: true[name] * math.exp(draw(0.0, noise))


def verdicts(ratio: float, noise: float = 0.02, races: int = 1000) -> tuple[dict[str, float], float]:
    """Shares of the verdicts on a challenger of that true ratio, and the mean number of pairs."""
    sample = noisy({"new": ratio, "old": 1.0}, noise, seed=5)
    found = [compare(sample, "new", "old") for _ in range(races)]
    kinds = [one.verdict for one in found]
    shares = {kind: kinds.count(kind) / races for kind in ("faster", "slower", "undecided")}
    return shares, sum(one.pairs for one in found) / races


def test_false_dismissals_of_an_equal_stay_below_half_the_risk() -> None:
    shares, _ = verdicts(1.0)
    # The union bound promises 2.5 % to each side.
    assert shares["slower"] <= 0.025 and shares["faster"] <= 0.025
    assert shares["undecided"] >= 0.95
    # One that is 3 % faster is hardly ever lost.
    assert verdicts(0.97)[0]["slower"] <= 0.002


def odd_noise(kind: str) -> Callable[[str], float]:
    """Equal versions under noise that is neither normal nor independent."""
    rng = np.random.default_rng(2)
    drift = 0.0

    def sample(name: str) -> float:
        nonlocal drift
        if kind == "interrupted now and then":
            return float(1.0 + (rng.random() < 0.05) * rng.exponential(0.5)) * math.exp(
                rng.normal(0.0, 0.005)
            )
        if kind == "a coarse clock between two ticks":
            return float(round(10.5 + rng.normal(0.0, 0.05)))
        drift = 0.8 * drift + rng.normal(0.0, 0.012)
        return math.exp(drift)

    return sample


@pytest.mark.parametrize(
    "kind", ["interrupted now and then", "a coarse clock between two ticks", "a clock that wanders"]
)
def test_odd_noise_turns_no_more_verdicts(kind: str) -> None:
    sample = odd_noise(kind)
    found = [compare(sample, "new", "old").verdict for _ in range(1000)]
    assert found.count("slower") <= 25 and found.count("faster") <= 25


def test_losers_are_dismissed_after_a_few_pairs() -> None:
    shares, pairs = verdicts(1.05)
    assert shares["slower"] >= 0.95 and pairs < 8
    shares, pairs = verdicts(1.3)
    assert shares["slower"] == 1.0 and pairs < 3.5
    assert verdicts(0.9)[0]["faster"] >= 0.99


def test_what_a_comparison_says() -> None:
    found = compare(noisy({"new": 2.2, "old": 2.0}, 0.002, seed=1), "new", "old")
    assert found.verdict == "slower" and 1.0 < found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(1.1, rel=0.01)
    assert found.seconds == pytest.approx(2.2, rel=0.01)
    assert found.incumbent_seconds == pytest.approx(2.0, rel=0.01)
    found = compare(noisy({"new": 1.0, "old": 1.0}, 0.02, seed=1), "new", "old", most_pairs=4)
    assert found.verdict == "undecided" and found.pairs == 4 and found.low < 1.0 < found.high


def test_drift_hits_both_alike() -> None:
    """A clock that falls by 2 % from one timing to the next: whoever comes second would look slower."""
    clock = 1.0

    def sample(name: str) -> float:
        nonlocal clock
        clock *= 1.02
        return clock

    assert compare(sample, "new", "old").verdict == "undecided"


def test_without_any_noise_the_smaller_is_faster() -> None:
    assert compare(lambda name: {"new": 1.0, "old": 1.1}[name], "new", "old").verdict == "faster"
    assert compare(lambda name: 1.0, "new", "old").verdict == "undecided"


def test_a_version_that_fails_loses_at_once() -> None:
    asked: list[str] = []

    def sample(name: str) -> float:
        asked.append(name)
        return math.inf if name == "broken" else 1.0

    assert compare(sample, "broken", "old").verdict == "slower"
    assert compare(sample, "new", "broken").verdict == "faster"
    assert len(asked) == 4
    asked.clear()
    order = finals(sample, ["broken", "a", "b"], most_rounds=5)
    assert [one.name for one in order] == ["a", "b", "broken"]
    assert order[-1].seconds == math.inf and asked.count("broken") == 1
    assert [one.seconds for one in finals(sample, ["broken"])] == [math.inf]


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="'new' took"):
        compare(lambda name: seconds if name == "new" else 1.0, "new", "old")


def test_finals_put_the_fastest_first_and_spend_little_on_the_others() -> None:
    true = {"e": 1.2, "b": 1.05, "a": 1.0, "c": 1.1, "d": 1.15}
    right = 0
    for seed in range(100):
        order = finals(noisy(true, 0.02, seed), list(true))
        right += order[0].name == "a"
        rounds = {one.name: one.rounds for one in order}
        assert rounds["e"] <= 10 and rounds[order[0].name] == max(rounds.values())
    assert right >= 97
    assert [one.name for one in order] == list("abcde")
    assert order[1].ratio == pytest.approx(1.05, abs=0.03) and order[0].ratio == 1.0
    assert order[2].seconds == pytest.approx(1.1, rel=0.05) and 0 <= order[2].spread < 0.1


def test_finals_keep_the_truly_fastest() -> None:
    """Against four that are 0.2 % slower it may lose the order, not be dropped early."""
    true = {"a": 1.0, "b": 1.002, "c": 1.002, "d": 1.002, "e": 1.002}
    kept = 0
    for seed in range(200):
        kept += (
            next(
                x for x in finals(noisy(true, 0.02, seed), list(true), most_rounds=8) if x.name == "a"
            ).rounds
            == 8
        )
    assert kept >= 195


def test_finals_of_one_or_none() -> None:
    assert [one.name for one in finals(lambda name: 1.0, ["only"])] == ["only"]
    assert finals(lambda name: 1.0, []) == []


def test_the_interval_is_students() -> None:
    """Against a table: t(0.975, 4) = 2.776; the standard deviation of 1..5 is sqrt(2.5)."""
    low, mean, high = interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.05)
    half = 2.776 * math.sqrt(2.5 / 5)
    assert (low, mean, high) == pytest.approx((3 - half, 3, 3 + half), abs=1e-3)
