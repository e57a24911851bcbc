"""Which of several versions is faster, with as few timings as the answer needs.

Versions are timed in turn, A B B A, so that drift of clocks and temperature hits all alike, and judged by the
logarithms of the ratios of neighbouring timings: a Student t interval of their mean.

Looking after every pair gives chance many occasions. So the risk is shared out: of L looks each may err with
probability risk / L, and by the union bound all together err with `risk` at most, whatever the looks have in
common. Simulated at a risk of 5 % (tests/measure/test_race.py): of equal versions 1.5 % are called slower and
1.5 % faster; of versions that are 3 % faster, with 2 % noise, under 0.2 % are called slower. Noise is taken
to be normal in the logarithm and independent from pair to pair; a rare slow outlier widens the interval and
so delays a verdict rather than turning it.

Everything here works on `sample(name) -> seconds`, such as `lambda name: timing.sample(plans[name])`. What
`sample` raises passes through; a version that fails may answer `math.inf` instead, which puts it last.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from hwsearch.measure.timing import summary

Sample = Callable[[str], float]

FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"

# Two differences say next to nothing about their spread.
FEWEST = 3


@dataclass(frozen=True)
class Comparison:
    """The challenger against the incumbent.

    Attributes:
        verdict: "faster" | "slower": the challenger is, with the confidence asked for; "undecided": the
            largest number of pairs could not tell.
        ratio: the challenger's seconds over the incumbent's, geometric mean of the pairs.
        low, high: the interval of the ratio at the last look.
        seconds, incumbent_seconds: medians.
        pairs: how many were timed.
    """

    verdict: str
    ratio: float
    low: float
    high: float
    seconds: float
    incumbent_seconds: float
    pairs: int


def compare(
    sample: Sample, challenger: str, incumbent: str, *, most_pairs: int = 12, risk: float = 0.05
) -> Comparison:
    """Time both in pairs until one is known to be faster, or `most_pairs` are timed (3 at least).

    `risk` bounds the probability of a wrong "faster" or "slower"; of equal versions each has half of it.
    Raises ValueError for a sample that is no positive number.
    """
    looks = max(1, most_pairs - FEWEST + 1)
    ours: list[float] = []
    theirs: list[float] = []
    while True:
        seconds = _round(sample, [challenger, incumbent], len(ours))
        ours.append(seconds[challenger])
        theirs.append(seconds[incumbent])
        if math.inf in seconds.values():
            verdict = SLOWER if ours[-1] == math.inf else FASTER
            low = mean = high = math.inf if verdict == SLOWER else -math.inf
        elif len(ours) < FEWEST:
            continue
        else:
            low, mean, high = interval(_log_ratios(ours, theirs), risk / looks)
            verdict = SLOWER if low > 0 else FASTER if high < 0 else UNDECIDED
        if verdict != UNDECIDED or len(ours) >= most_pairs:
            medians = statistics.median(ours), statistics.median(theirs)
            return Comparison(verdict, math.exp(mean), math.exp(low), math.exp(high), *medians, len(ours))


@dataclass(frozen=True)
class Finalist:
    """One version after the finals.

    Attributes:
        seconds: the median of its samples.
        spread: what timing it twice made of it: |second half / first half - 1|, medians.
        ratio: its seconds over the winner's in the rounds that both ran, geometric mean.
        rounds: how many it ran: all, or those until it was known to be slower than the leader.
    """

    name: str
    seconds: float
    spread: float
    ratio: float
    rounds: int


def finals(
    sample: Sample, names: Sequence[str], *, most_rounds: int = 20, risk: float = 0.05
) -> list[Finalist]:
    """Time all versions once a round and drop those known to be slower than the leader; fastest first.

    It ends with one version left or after `most_rounds` (3 at least). `risk` bounds the probability that the
    truly fastest is dropped, whichever leads. Raises ValueError for a sample that is no positive number.
    """
    samples: dict[str, list[float]] = {name: [] for name in names}
    left = list(samples)
    dropped: list[str] = []
    failed: list[str] = []
    looks = max(1, most_rounds - FEWEST + 1) * max(1, len(left) - 1)
    for turn in range(max(most_rounds, FEWEST)):
        for name, seconds in _round(sample, left, turn).items():
            samples[name].append(seconds)
        failed += [name for name in left if samples[name][-1] == math.inf]
        left = sorted((n for n in left if n not in failed), key=lambda name: _mean_log(samples[name]))
        if turn + 1 < FEWEST:
            continue
        leader = samples[left[0]] if left else []
        slower = [
            name for name in left[1:] if interval(_log_ratios(samples[name], leader), risk / looks)[0] > 0
        ]
        left = [name for name in left if name not in slower]
        dropped = slower + dropped
        if len(left) <= 1:
            break
    order = left + dropped + failed
    return [_finalist(name, samples[name], samples[order[0]]) for name in order]


def _finalist(name: str, seconds: list[float], winner: list[float]) -> Finalist:
    if seconds[-1] == math.inf:
        return Finalist(name, math.inf, math.inf, math.inf, len(seconds))
    timing = summary(seconds)
    ratio = math.exp(_mean_log(seconds) - _mean_log(winner[: len(seconds)]))
    return Finalist(name, timing.seconds, timing.spread, ratio, len(seconds))


def _round(sample: Sample, names: Sequence[str], turn: int) -> dict[str, float]:
    """One sample of each; who comes last in one round comes first in the next."""
    seconds = {name: sample(name) for name in (names[::-1] if turn % 2 else names)}
    for name, value in seconds.items():
        if not value > 0:
            raise ValueError(f"a sample of {name!r} took {value} s")
    return seconds


def _mean_log(seconds: Sequence[float]) -> float:
    return statistics.fmean(map(math.log, seconds))


def _log_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]


def interval(values: Sequence[float], risk: float) -> tuple[float, float, float]:
    """(low, mean, high): the two-sided Student t interval of the mean, which misses it by `risk`."""
    count = len(values)
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = _t(risk, count - 1) * deviation / math.sqrt(count)
    return mean - half, mean, mean + half


@cache
def _t(risk: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - risk / 2))
