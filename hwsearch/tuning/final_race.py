"""Who wins: the best few of all trials once more in turn, and the winner against the default."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import moocore
import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.measure.failure import Failure
from hwsearch.measure.race import FASTER, Finalist
from hwsearch.tuning.kernel import Config, NothingRuns
from hwsearch.tuning.kernel_study import Record
from hwsearch.tuning.table_file import ALTERNATIVES
from hwsearch.tuning.tuning_space import TuningSpace
from hwsearch.tuning.workshop import Desk

Objective = Literal["time", "energy", "both"]
OBJECTIVES: tuple[Objective, ...] = ("time", "energy", "both")
FINALISTS = 5


@dataclass(frozen=True)
class Limits:
    """How long anything may take, and how sure a verdict must be.

    Attributes:
        open_s: hard time-out of making a kernel's inputs and their truth, the device's start included.
        compile_s, trial_s: hard time-outs of one configuration.
        most_pairs: timings of a configuration and the best so far, at most.
        most_rounds: timings of each finalist, at most.
        energy_rounds: of its energy, each a second long or longer.
        risk: probability that a verdict is wrong.
    """

    open_s: float = 180.0
    compile_s: float = 120.0
    trial_s: float = 60.0
    most_pairs: int = 12
    most_rounds: int = 24
    energy_rounds: int = 5
    risk: float = 0.05


LIMITS = Limits()


@dataclass(frozen=True)
class Tuned:
    """
    Attributes:
        seconds: of the winner; default_seconds: of the default, None where it does not run.
        alternatives: the next best with their seconds; of time and energy together the Pareto front.
        spread: relative, of repeated measurements of the winner.
        joules: of one run; None where energy did not count.
        trials, failures: that have ended, and how many of them failed, all sessions together.
        taint: what disturbed the last race however often it was held; None for nothing.
    """

    config: Config
    seconds: float
    default_seconds: float | None
    alternatives: tuple[tuple[Config, float], ...]
    spread: float
    joules: float | None
    trials: int
    failures: int
    taint: str | None = None


def decide(
    records: Sequence[Record],
    space: TuningSpace,
    default: Config,
    bench: Desk,
    objective: Objective,
    limits: Limits,
) -> Tuned:
    """The winner of the last race if it beats the default beyond doubt, else the default.

    Raises NothingRuns where no configuration runs; HwsearchError where the last race fails.
    """
    kept = sorted((r for r in records if r.kept), key=lambda r: _value(r, objective))
    if not kept:
        raise NothingRuns(_nothing_runs(records))
    finalists = {space.row_of(default): r for r in records if r.row == space.row_of(default) and r.seconds}
    finalists |= {record.row: record for record in _distinct(kept)[:FINALISTS]}
    configs = [space.configuration(row) for row in finalists if row is not None]
    places, configs = _race(bench, configs, objective, limits)
    by_config = [finalists[space.row_of(config)] for config in configs]
    leader = places[0]
    values = {int(place.name): leader.seconds * place.ratio for place in places}
    winner, against = int(leader.name), next((i for i, c in enumerate(configs) if c == default), None)
    if against is not None and winner != against:
        duel = _call(bench, "duel", (configs[winner], default), objective, limits)
        if duel.verdict == FASTER:
            values |= {winner: duel.seconds, against: duel.incumbent_seconds}
        else:
            winner = against
    taint = bench.call("taint", timeout=limits.trial_s)
    energy = objective == "energy"
    seconds = {i: (by_config[i].seconds or math.nan) if energy else value for i, value in values.items()}
    others = [(configs[i], seconds[i]) for i in values if i != winner]
    # Those that were not in it, with what is known of them: who lacks the winner wants to know the next best.
    drift = seconds[winner] / (by_config[winner].seconds or math.nan)
    codes = {record.code for record in finalists.values()} - {""}
    rest = [r for r in records if r.row not in finalists and not r.failure and r.code not in codes]
    others += [(space.configuration(r.row), r.seconds * drift) for r in _distinct(rest) if r.seconds]
    others.sort(key=lambda pair: pair[1])
    if objective == "both":
        others = _front(kept, space, configs[winner])
    return Tuned(
        config=configs[winner],
        seconds=seconds[winner],
        default_seconds=None if against is None else seconds[against],
        alternatives=tuple(others[:ALTERNATIVES]),
        spread=next(place.spread for place in places if int(place.name) == winner),
        joules=values[winner] if energy else by_config[winner].joules,
        trials=len(records),
        failures=sum(bool(record.failure) for record in records),
        taint=None if isinstance(taint, Failure) else taint,
    )


def _distinct(records: Sequence[Record]) -> list[Record]:
    """Without those whose machine code an earlier one has."""
    seen: set[str] = set()
    found = []
    for record in records:
        if record.code not in seen:
            found.append(record)
        seen |= {record.code} - {""}
    return found


def _value(record: Record, objective: Objective) -> float:
    value = record.joules if objective == "energy" else record.seconds
    return math.inf if value is None else value


def _race(
    bench: Desk, configs: list[Config], objective: Objective, limits: Limits
) -> tuple[list[Finalist], list[Config]]:
    """The finalists in order, named by their places in the configurations, which come back with them."""
    # The process may be new.
    bench.call("prepare", None, timeout=limits.open_s)
    places = _call(bench, "finals", (configs,), objective, limits, may_fail=True)
    if isinstance(places, Failure):
        # One of them runs no more: the others without it.
        configs = [c for c in configs if not _fails(bench, c, limits)]
        if not configs:
            raise HwsearchError(f"the last race failed: {places}; the trials are kept")
        places = _call(bench, "finals", (configs,), objective, limits)
    return places, configs


def _fails(bench: Desk, config: Config, limits: Limits) -> bool:
    return isinstance(bench.call("prepare", config, timeout=limits.open_s), Failure)


def _call(
    bench: Desk,
    method: str,
    configs: tuple[Any, ...],
    objective: Objective,
    limits: Limits,
    may_fail: bool = False,
) -> Any:
    energy = objective == "energy"
    most = limits.energy_rounds if energy else limits.most_rounds
    answer = bench.call(method, *configs, energy, most, limits.risk, timeout=limits.trial_s * (FINALISTS + 1))
    if isinstance(answer, Failure) and not may_fail:
        raise HwsearchError(f"the last race failed: {answer}; the trials are kept")
    return answer


def _front(kept: Sequence[Record], space: TuningSpace, winner: Config) -> list[tuple[Config, float]]:
    """From the winner to the configuration of least energy, which is always there, fastest first."""
    losses = np.array([[record.seconds, record.joules] for record in kept], dtype=float)
    front = [record for record, on in zip(kept, moocore.is_nondominated(losses), strict=True) if on]
    found = [(space.configuration(r.row), float(r.seconds or math.nan)) for r in front]
    found = [pair for pair in found if pair[0] != winner]
    places = np.linspace(len(found) - 1, 0, min(ALTERNATIVES, len(found))).astype(int)
    return [found[place] for place in sorted(places)]


def _nothing_runs(records: Sequence[Record]) -> str:
    if not records:
        return "no configuration was measured within the budget"
    reasons = Counter(record.failure for record in records if record.failure).most_common(1)
    why = f"; most often: {reasons[0][0]}" if reasons else ""
    return f"none of {len(records):,} configurations runs{why}"
