"""Tunes one kernel on the device at hand: proposes, compiles ahead, checks, races, remembers, decides.

One process coordinates. Compilers work ahead in processes of their own, so that the device never waits; one
more process owns the device, and a configuration that crashes or hangs it costs one trial. What was told to
the study is all that a later session needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from hwsearch.interrupt import StopOnInterrupt
from hwsearch.measure.failure import Failure
from hwsearch.measure.race import SLOWER
from hwsearch.tuning.bench import Measured
from hwsearch.tuning.final_race import LIMITS, Limits, Objective, Tuned, decide
from hwsearch.tuning.kernel import Config, Kernel, NothingRuns
from hwsearch.tuning.kernel_study import (
    CHECK_S,
    CODE,
    COMPILE_S,
    TRIAL_S,
    VERDICT,
    KernelStudy,
    Record,
    opened,
)
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.tuning_space import TuningSpace
from hwsearch.tuning.workshop import Compiled, Desk, Workshop

# Energy takes a second or more a configuration: only those nearly as fast as the best are worth it.
ENERGY_WITHIN = 1.5
GLANCE_S = 0.2


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. `tuned` is the best so far, every configuration in it checked; None where there is none."""

    def __init__(self, tuned: Tuned | None) -> None:
        super().__init__()
        self.tuned = tuned


def tune_kernel(
    kernel: Kernel,
    name: str,
    identity: object,
    *,
    trials: int,
    seconds: float,
    objective: Objective,
    workshop: Workshop,
    folder: Path,
    report: Callable[[Progress], None],
    warn: Callable[[str], None],
    first: Sequence[Config] = (),
    limits: Limits = LIMITS,
) -> Tuned:
    """Tune until `trials` have ended, earlier sessions included, or `seconds` of this one.

    Args:
        name: of the study, which lies in folder/<name>.log.
        identity: plain data; a study of another identity is another study.
        workshop: its processes serve this kernel and the next.
        first: configurations to try right after the default, such as the best of a model.

    Raises NothingRuns where nothing does or the kernel's inputs cannot be made; HwsearchError where another
    process tunes the same; Interrupted after Ctrl-C, a second one at once.
    """
    configurations, default = kernel.configurations(), kernel.default()
    space = TuningSpace.of(list(default), [tuple(c[name] for name in default) for c in configurations])
    objectives = 2 if objective == "both" else 1
    with ExitStack() as held, StopOnInterrupt() as stop:
        everything = (identity, objective, configurations)
        study = held.enter_context(opened(folder, name, everything, space, objectives, warn))
        study.begin_with([default, *first])
        bench = workshop.bench(kernel)
        campaign = _Campaign(study, space, default, bench, objective, limits, trials, seconds, report)
        campaign.run(workshop, kernel, stop)
        if stop.requested and not campaign.kept:
            raise Interrupted(None)
        tuned = campaign.decide()
        if stop.requested:
            raise Interrupted(tuned)
    return tuned


@dataclass
class _Campaign:
    """One session; what it knows is the study's records, and which of them run no more."""

    study: KernelStudy
    space: TuningSpace
    default: Config
    bench: Desk
    objective: Objective
    limits: Limits
    trials: int
    budget_s: float
    report: Callable[[Progress], None]
    start: float = field(default_factory=time.monotonic)
    dropped: set[int] = field(default_factory=set)

    @property
    def kept(self) -> list[Record]:
        """Of the configurations that may win, fastest first."""
        kept = [r for r in self.study.records if r.kept and r.row not in self.dropped]
        return sorted(kept, key=_seconds)

    @property
    def _best(self) -> Record | None:
        """What others are raced against: the last that won a race."""
        return next((record for record in self.kept if record.faster), None)

    def run(self, workshop: Workshop, kernel: Kernel, stop: StopOnInterrupt) -> None:
        """Measure until the trials, the seconds or the configurations are used up, or Ctrl-C."""
        ahead: list[tuple[Trial, Future[Compiled | Failure]]] = []

        def goes_on() -> bool:
            in_time = time.monotonic() - self.start < self.budget_s
            return not stop.requested and (in_time or not self.study.records)  # one at least

        while goes_on():
            while (
                len(ahead) < workshop.workers + 1
                and len(self.study.records) + len(ahead) < self.trials
                and not self.study.exhausted
            ):
                trial = self.study.ask()
                config = dict(trial.params)
                ahead.append((trial, workshop.compile(kernel, config, self.limits.compile_s)))
            if not ahead:
                return
            # The default first of all: others are raced against it.
            open_to = ahead if self.study.records else ahead[:1]
            done, _ = wait([future for _, future in open_to], GLANCE_S, FIRST_COMPLETED)
            if not done:
                continue
            # In the order in which they were proposed, as far as they are compiled.
            place = next(i for i, (_, future) in enumerate(ahead) if future in done)
            trial, future = ahead.pop(place)
            self._end(trial, future.result())
        for trial, future in ahead:
            future.cancel()
            self.study.give_back(trial)

    def _end(self, trial: Trial, compiled: Compiled | Failure) -> None:
        """Find out about one configuration, and tell the study."""
        config = dict(trial.params)
        if isinstance(compiled, Failure):
            self._fail(trial, Failure(compiled.kind, f"compiling: {compiled.reason}"), {})
            return
        same = next((r for r in self.study.records if compiled.code and r.code == compiled.code), None)
        if same is not None:
            self._repeat(trial, same)
            return
        self._show("measuring", config)
        start = time.monotonic()
        measured = self._raced(config)
        facts: dict[str, Any] = {CODE: compiled.code, COMPILE_S: compiled.seconds} if compiled.code else {}
        facts |= {TRIAL_S: time.monotonic() - start}
        if isinstance(measured, Failure):
            self._fail(trial, measured, facts)
            return
        best = self._best
        # By the ratio, since clocks and temperature drift.
        seconds = measured.seconds if best is None else measured.ratio * _seconds(best)
        facts |= {VERDICT: measured.verdict, "samples": measured.samples}
        facts |= {"raw_seconds": measured.seconds, CHECK_S: measured.check_s}
        # Clocks, temperature, throttling, what disturbed the card: what of it the device tells.
        facts |= {name: value for name, value in asdict(measured.conditions).items() if value is not None}
        joules: float | None = None
        if self.objective != "time" and (best is None or measured.ratio <= ENERGY_WITHIN):
            answer = self.bench.call("joules", config, timeout=self.limits.trial_s)
            if isinstance(answer, Failure):
                self._fail(trial, answer, facts)
                return
            joules = float(answer)
        slower = measured.verdict == SLOWER if self.objective == "time" else joules is None
        values: dict[Objective, list[float | None]] = {
            "time": [seconds],
            "energy": [joules if best is None or joules else measured.ratio * (best.joules or 0.0)],
            "both": [seconds, joules],
        }
        self.study.tell(trial, seconds, joules, values[self.objective], not slower, facts)
        self._show("slower" if slower else "complete", config, seconds)

    def _repeat(self, trial: Trial, same: Record) -> None:
        """Told of machine code that is known already."""
        facts = {CODE: same.code}
        if same.seconds is None:
            self._fail(trial, Failure("same code", same.failure), facts)
            return
        values: dict[Objective, list[float | None]] = {
            "time": [same.seconds],
            "energy": [same.joules],
            "both": [same.seconds, same.joules],
        }
        self.study.tell(trial, same.seconds, same.joules, values[self.objective], same.kept, facts)
        self._show("complete" if same.kept else "slower", dict(trial.params), same.seconds)

    def _raced(self, config: Config) -> Measured | Failure:
        limits = self.limits
        while True:
            best = self._best
            against = None if best is None else self.space.configuration(best.row)
            ready = self.bench.call("prepare", against, timeout=limits.open_s)
            if not isinstance(ready, Failure):
                break
            # Once more, in a new process; then either the device is out of order or this configuration.
            if not isinstance(self.bench.call("prepare", against, timeout=limits.open_s), Failure):
                break
            if best is None or isinstance(self.bench.call("prepare", None, timeout=limits.open_s), Failure):
                raise NothingRuns(f"nothing can be measured here: {ready}")
            self.dropped.add(best.row)
        answer: Measured | Failure = self.bench.call(
            "trial", config, limits.most_pairs, limits.risk, timeout=limits.trial_s
        )
        return answer

    def _fail(self, trial: Trial, failed: Failure, facts: dict[str, Any]) -> None:
        self.study.tell_failed(trial, str(failed), facts)
        self._show("failed", dict(trial.params), reason=str(failed))

    def decide(self) -> Tuned:
        records = [r for r in self.study.records if r.row not in self.dropped]
        if self.kept:
            self._show("finals", self.space.configuration(self.kept[0].row), self.kept[0].seconds)
        return decide(records, self.space, self.default, self.bench, self.objective, self.limits)

    def _show(self, state: str, config: Config, seconds: float | None = None, reason: str = "") -> None:
        records, best = self.study.records, next(iter(self.kept), None)
        default_row = self.space.row_of(self.default)
        self.report(
            Progress(
                state=state,
                trial=len(records),
                trials=min(self.trials, len(self.space)),
                config=config,
                seconds=seconds,
                reason=reason,
                best=None if best is None else self.space.configuration(best.row),
                best_seconds=None if best is None else best.seconds,
                default_seconds=next((r.seconds for r in records if r.row == default_row), None),
                failures=sum(bool(r.failure) for r in records),
            )
        )


def _seconds(record: Record) -> float:
    assert record.seconds is not None  # of one that was kept
    return record.seconds
