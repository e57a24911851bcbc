"""The measured rung's loop: which shape is measured next, who is asked, what becomes of the answers.

A shape is one trial, and on each measured GPU one job a workload, asked one after the other: a device keeps
the process of a shape for its next workload. Jobs wait here until a device is free, so that those of a shape
that has failed meanwhile, on this GPU or another, can be dropped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count as counting

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.gpu.profile import CPU, Gpu
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row, failed_row
from hwsearch.search.candidates import Report, settings_of
from hwsearch.search.measured.engine import DEVICE_GONE, Answer, Engine
from hwsearch.search.measured.measurements import FAILED, Measurements
from hwsearch.search.measured.result import MeasuredResult, measured_candidates
from hwsearch.search.measured.sampler import MeasuredSampler
from hwsearch.search.measured.shape import MeasuredShape, OnGpu, device_of
from hwsearch.search.measured.study import FAILED_ON, Shapes, read_study
from hwsearch.search.objectives import limits, objectives
from hwsearch.search.parameters import as_params
from hwsearch.search.result import RunResult
from hwsearch.search.storage.leases import FAILURE, SHAPE_HASH, Leases
from hwsearch.settings import RuntimeName
from hwsearch.shape import EncoderShape
from hwsearch.space.search_space import SearchSpace

# How long an answer is waited for before the coordinator looks around.
GLANCE_S = 1.0
WAITING_SHAPES = 1  # of a GPU whose devices are all busy, so that none waits for the next proposal
# Where so many shapes, and as many as were asked for, cannot be measured, no more are tried.
FEWEST_FAILURES = 10
REFERENCE_FAILURE = "reference_failure"  # not FAILURE, after which a shape is not tried again


@dataclass(eq=False)
class _Open:
    """A shape that is being measured: its jobs by GPU, one a workload, which of them are still to be asked,
    and the rows that are there so far."""

    trial: Trial
    shape: EncoderShape
    row: int | None
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    unasked: dict[str, deque[int]] = field(default_factory=dict)
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)


def jobs_of(space: SearchSpace, gpu: Gpu, shape: EncoderShape, backend: str | None) -> list[Job]:
    """What is asked of one GPU about one shape, one job a workload. Raises HwsearchError as `Job` does."""
    settings = settings_of(space)
    # A CPU has no graphs, and waits for no launches either.
    runtime: RuntimeName = "eager" if gpu.name == CPU and settings.runtime == "graph" else settings.runtime
    return [
        Job(shape, workload, settings.dtype_on(gpu), settings.mode, runtime, space.head, backend)
        for workload in space.workloads
    ]


class Coordinator:
    """Fills the study; for one thread and one `run`."""

    def __init__(
        self,
        predicted: RunResult,
        study: Study,
        engine: Engine,
        leases: Leases,
        measurements: Measurements,
        *,
        backend: str | None,
        report: Report,
        warn: Callable[[str], None],
        stop: StopOnInterrupt,
    ) -> None:
        self._predicted, self._space = predicted, predicted.space
        self._study, self._engine, self._leases = study, engine, leases
        self._measurements, self._backend = measurements, backend
        self._report, self._warn, self._stop = report, warn, stop
        self._gpus = {gpu.name: gpu for gpu in self._space.gpus if gpu.name in engine.gpus}
        self._shapes = Shapes(predicted)
        self._devices: dict[str, str] = {}
        for row in measurements:
            if row["source"] != FAILED:
                self._check_device(row["gpu"], device_of(row))
        self._reference: MeasuredShape | None = None
        self._open: list[_Open] = []
        self._again: list[int] = []
        self._tickets: dict[int, tuple[_Open, str, int]] = {}
        self._numbers = counting()
        # By GPU, shapes of which no job is submitted there and one at least is to be.
        self._waiting: dict[str, deque[_Open]] = {gpu: deque() for gpu in self._gpus}
        self._submitted: Counter[str] = Counter()
        self._why_gone: dict[str, str] = {}

    def run(self, count: int) -> MeasuredResult:
        """Measure until `count` candidates besides the reference are complete, or none promises anything.
        What was begun is finished, even where there are enough meanwhile.

        Raises as `measure_front` does.
        """
        if lacking := [gpu.name for gpu in self._space.gpus if gpu.name not in self._gpus]:
            self._warn(f"no device measures {', '.join(lacking)}: predicted there")
        reference = self._reference = self._measured_reference()
        self._keep_to(reference)
        self._try_again(self._leases.unclaimed())
        own, _ = measured_candidates(self._predicted, reference, [], [])
        sampler = MeasuredSampler(self._space, self._predicted.candidates, own, list(reference.on))
        self._study.sampler = sampler
        while True:
            self._look_around()
            done, others, failures = self._progress()
            self._report("measuring", done, count)
            exhausted = False
            if failures >= max(count, FEWEST_FAILURES) and count > done:
                self._warn(f"{failures} shapes cannot be measured, so no more are tried")
                count = done
            if self._has_room():
                if self._again:
                    row = self._again.pop()
                    self._begin(self._shapes.shape(row), row)
                    continue
                if done + others + len(self._open) < count:
                    if (key := sampler.propose(self._study)) is not None:
                        row = self._shapes.row_of_key(key)
                        self._begin(self._shapes.shape(row), row)
                        continue
                    exhausted = not others  # what others measure may change that
            if not self._open and not self._again and (done >= count or exhausted):
                found = read_study(self._predicted, self._shapes, self._study, exhausted=exhausted)
                assert found is not None
                return found
            self._step()

    def _measured_reference(self) -> MeasuredShape:
        """From the study, or measured now, or by another coordinator while this one waits."""
        shape = self._space.reference
        while True:
            self._look_around()
            mine = [
                trial for trial in self._study.get_trials(deepcopy=False) if self._shapes.is_reference(trial)
            ]
            for trial in mine:
                if trial.state == TrialState.COMPLETE:
                    return MeasuredShape.of_trial(shape, trial)
            if all(trial.state.is_finished() for trial in mine):
                self._begin(shape, self._shapes.reference_row)
            else:
                self._report("measuring the reference", 0, 1)
                self._step()

    def _keep_to(self, reference: MeasuredShape) -> None:
        """All shapes are measured on the GPUs that the reference was measured on."""
        for gpu, found in reference.on.items():
            self._check_device(gpu, found.device)
        for gpu in [gpu for gpu in self._gpus if gpu not in reference.on]:
            self._warn(f"{gpu}: the reference was not measured on it, so it is predicted")
            del self._gpus[gpu], self._waiting[gpu]
        if not self._gpus:
            raise HwsearchError(
                f"the reference was measured on {', '.join(reference.on)}, for which there is no device now;"
                f" at hand: {', '.join(sorted(self._engine.gpus)) or 'none'}"
            )

    def _look_around(self) -> None:
        """Beat for the open trials, stop after Ctrl-C, take over what dead processes have left."""
        self._leases.renew()
        if self._stop.requested:
            self._take_what_is_there()
        self._stop.check()
        self._try_again(self._leases.recover())

    def _try_again(self, lost: Iterable[FrozenTrial]) -> None:
        """What dead processes have left is measured first."""
        for trial in lost:
            row = None if self._shapes.is_reference(trial) else self._shapes.row(trial)
            if row is not None and row not in self._again:
                self._again.append(row)

    def _progress(self) -> tuple[int, int, int]:
        """Candidates besides the reference that are complete, that others measure now, that have failed."""
        mine = {opened.trial.number for opened in self._open}
        done = others = failures = 0
        for trial in self._study.get_trials(deepcopy=False):
            if self._shapes.is_reference(trial) or SHAPE_HASH not in trial.user_attrs:
                continue  # no coordinator began the latter
            done += trial.state == TrialState.COMPLETE
            others += trial.state == TrialState.RUNNING and trial.number not in mine
            failures += trial.state == TrialState.FAIL and FAILURE in trial.user_attrs
        return done, others, failures

    def _has_room(self) -> bool:
        """Whether the GPU with most to do has too little of it; the others must wait for that one anyway."""

        def room(gpu: str) -> bool:
            shapes = len(self._waiting[gpu]) + self._submitted[gpu]
            # The coordinator thinks on the cores of a CPU that is measured: not while it is.
            return shapes < (1 if gpu == CPU else self._engine.slots(gpu) + WAITING_SHAPES)

        return all(room(gpu) for gpu in self._gpus)

    def _begin(self, shape: EncoderShape, row: int | None) -> None:
        """A trial for the shape, at `row` of the candidates, and its jobs; nothing where another coordinator
        has it already."""
        priced, column = (self._predicted.reference, 0) if row is None else (self._predicted.candidates, row)
        params = as_params(shape, self._space.file.shape)
        facts = {
            "shape": str(shape),
            SHAPE_HASH: shape.hash(),
            "source": "measured",
            "predicted_s": {
                gpu.name: float(priced.latency[each, column]) for each, gpu in enumerate(self._space.gpus)
            },
        }
        trial = self._leases.begin(
            {name: value for name, (value, _) in params.items()},
            {name: distribution for name, (_, distribution) in params.items()},
            facts,
        )
        if trial is None:
            return
        for opened in self._open:
            if opened.shape == shape:  # another took it over, and let it go again, while it is measured here
                opened.trial = trial
                return
        opened = _Open(trial, shape, row)
        self._open.append(opened)
        for gpu in self._gpus.values():
            try:
                opened.jobs[gpu.name] = jobs_of(self._space, gpu, shape, self._backend)
            except HwsearchError as error:
                return self._fail(opened, gpu.name, str(error))
            opened.unasked[gpu.name] = deque()
            for index, job in enumerate(opened.jobs[gpu.name]):
                known = self._measurements.find(gpu.name, job.key)
                if known is None or (known["source"] == FAILED and self._is_reference(opened)):
                    opened.unasked[gpu.name].append(index)
                elif known["source"] == FAILED:
                    return self._fail(opened, gpu.name, f"{known['failure']}: {known['reason']}")
                else:
                    opened.rows[gpu.name, index] = known
        for name in opened.jobs:
            self._go_on_with(opened, name)
        self._finish_if_whole(opened)

    def _go_on_with(self, opened: _Open, gpu: str, *, first: bool = False) -> None:
        """Let a shape wait for a device that takes its next job, if one is still wanted."""
        if opened in self._open and gpu in self._gpus and opened.unasked[gpu]:
            waiting = self._waiting[gpu]
            waiting.appendleft(opened) if first else waiting.append(opened)

    def _step(self) -> None:
        """Keep the devices busy, take an answer or wait for one a moment."""
        if gone := [gpu for gpu in self._gpus if gpu not in self._engine.gpus]:
            self._take_what_is_there()
        for gpu in gone:
            self._lose(gpu)
        self._submit()
        if (answer := self._engine.next(GLANCE_S)) is not None:
            self._take(answer)
            self._submit()  # ahead of the next proposal, which takes a moment

    def _submit(self) -> None:
        for gpu, waiting in self._waiting.items():
            while waiting and self._submitted[gpu] < self._engine.slots(gpu):
                opened = waiting.popleft()
                index = opened.unasked[gpu].popleft()
                ticket = next(self._numbers)
                self._tickets[ticket] = (opened, gpu, index)
                self._submitted[gpu] += 1
                self._engine.submit(ticket, gpu, opened.jobs[gpu][index])

    def _take_what_is_there(self) -> None:
        """Before an end: what was measured is kept."""
        while (answer := self._engine.next(0.0)) is not None:
            self._take(answer)

    def _take(self, answer: Answer) -> None:
        opened, gpu, index = self._tickets.pop(answer.ticket)
        self._submitted[gpu] -= 1
        job = opened.jobs[gpu][index]
        if answer.failure is not None:
            if answer.failure.kind == DEVICE_GONE:
                self._why_gone[gpu] = answer.failure.reason
                if gpu in self._engine.gpus:  # it came back meanwhile
                    opened.unasked[gpu].appendleft(index)
                    self._go_on_with(opened, gpu, first=True)
                return
            self._measurements.append(failed_row(job, gpu, answer.failure))
            if opened in self._open:
                self._fail(opened, gpu, str(answer.failure))
            return
        assert answer.row is not None
        row = {**answer.row, "gpu": gpu}
        if (found := answer.row["gpu"]) not in (gpu, None):
            raise HwsearchError(f"{gpu}: the device that was to measure it is of the profile {found}")
        self._check_device(gpu, device_of(row))
        self._measurements.append(row)
        if opened in self._open:
            opened.rows[gpu, index] = row
            self._go_on_with(opened, gpu, first=True)
            self._finish_if_whole(opened)

    def _lose(self, gpu: str) -> None:
        """Go on without a GPU that nothing measures any more."""
        del self._gpus[gpu], self._waiting[gpu]
        why = self._why_gone.get(gpu, "nothing measures it any more")
        if not self._gpus:
            raise HwsearchError(
                f"{gpu}: {why}; no other GPU of the basket is left. What was measured is kept, and the same"
                " command goes on with it"
            )
        self._warn(f"{gpu}: {why}; it is predicted from here on")
        for opened in list(self._open):
            self._finish_if_whole(opened)

    def _finish_if_whole(self, opened: _Open) -> None:
        """Tell the study what came of a shape that every GPU at hand has measured."""
        whole = [
            gpu
            for gpu, jobs in opened.jobs.items()
            if all((gpu, index) in opened.rows for index in range(len(jobs)))
        ]
        if not all(gpu in whole for gpu in self._gpus):
            return
        weights = self._space.workload_weights
        on = {
            gpu: OnGpu.of([opened.rows[gpu, index] for index in range(len(weights))], weights)
            for gpu in whole
        }
        measured = MeasuredShape(opened.shape, on)
        if self._is_reference(opened):
            own, _ = measured_candidates(self._predicted, measured, [], [])
            candidate = own
        else:
            assert self._reference is not None and opened.row is not None
            own, candidate = measured_candidates(self._predicted, self._reference, [measured], [opened.row])
        self._open.remove(opened)
        try:
            for name, excess in limits(self._space, candidate, own).items():
                opened.trial.set_constraint(name, float(excess[0]))
            for name, found in measured.attributes().items():
                opened.trial.set_user_attr(name, found)
            values = [float(objective.values[0]) for objective in objectives(self._space, candidate, own)]
            told = self._study.tell(opened.trial, values, skip_if_finished=True)
            if told.state != TrialState.COMPLETE:
                self._taken_over(opened)
        except UpdateFinishedTrialError:
            self._taken_over(opened)

    def _fail(self, opened: _Open, gpu: str, failure: str) -> None:
        """Tell the study that a shape cannot be measured. Raises HwsearchError for the reference."""
        self._open.remove(opened)
        for name, waiting in self._waiting.items():
            self._waiting[name] = deque(each for each in waiting if each is not opened)
        try:
            opened.trial.set_user_attr(FAILED_ON, gpu)
            opened.trial.set_user_attr(REFERENCE_FAILURE if self._is_reference(opened) else FAILURE, failure)
            self._study.tell(opened.trial, state=TrialState.FAIL, skip_if_finished=True)
        except UpdateFinishedTrialError:
            self._taken_over(opened)
        if self._is_reference(opened):
            raise HwsearchError(f"the reference {opened.shape} cannot be measured on {gpu}: {failure}")

    def _taken_over(self, opened: _Open) -> None:
        """Another coordinator took us for dead; if it has not begun the shape itself, the rows here count."""
        self._warn(f"{opened.shape}: another process has taken it over")
        self._try_again(self._leases.unclaimed())

    def _is_reference(self, opened: _Open) -> bool:
        return opened.shape == self._space.reference

    def _check_device(self, gpu: str, device: str) -> None:
        """Times of two devices or versions are not compared."""
        if (earlier := self._devices.setdefault(gpu, device)) != device:
            raise HwsearchError(
                f"{gpu}: was measured on {earlier}, and is {device} now; such times are not compared. Take"
                " another --out; what was measured is kept"
            )
