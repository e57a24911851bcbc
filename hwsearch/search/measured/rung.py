"""The middle rung: shapes of a priced grid are timed on devices, and the search learns from each answer.

The reference is measured first, so that every figure can be against it. Then the ladder says which candidate
promises most a second; an engine measures it on every GPU of the basket that it has a device for; the others
keep their predicted latency. The study "SPACE measured" holds it all, one trial a shape.

Every answer is in measurements.jsonl before anything is built on it. A run that was killed goes on from
there: what a trial that it left running had measured is read, not measured again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import ExitStack

from optuna.exceptions import OptunaError
from optuna.samplers import RandomSampler

from hwsearch.errors import HwsearchError
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.measure.code import timed_code
from hwsearch.search.candidates import Report, silent
from hwsearch.search.identity import identity
from hwsearch.search.measured.coordinator import Coordinator, jobs_of
from hwsearch.search.measured.engine import Engine
from hwsearch.search.measured.measurements import Measurements
from hwsearch.search.measured.result import MeasuredResult, write_measured
from hwsearch.search.measured.study import study_name, with_all_shapes
from hwsearch.search.objectives import objectives
from hwsearch.search.result import RunResult
from hwsearch.search.run_folder import claim
from hwsearch.search.storage.leases import LEASE_S, Leases
from hwsearch.search.storage.study import cannot_be_written, claimed_storage, open_study
from hwsearch.search.storage.url import is_one_file
from hwsearch.space.search_space import LARGEST_GRID, SearchSpace, valid_shapes

OTHER = "another --backend, another version of the code that builds and times encoders, or another space"


def measure_front(
    predicted: RunResult,
    engine: Engine,
    *,
    count: int = 30,
    backend: str | None = None,
    storage: str | None = None,
    lease_s: float = LEASE_S,
    report: Report = silent,
    warn: Callable[[str], None] = lambda message: None,
) -> MeasuredResult:
    """Measure the reference and `count` candidates of a finished predicted run; its folder gets the answer.

    Args:
        engine: has a device for one GPU of the basket at least.
        count: measured candidates to reach, in total over all that share the study; those that a dead process
            has begun are finished beyond it.
        backend: of the attention, in place of what dispatch chooses.
        storage: the predicted run's.
        lease_s: a coordinator that shares the study and has not beaten for so long is taken for dead.

    Raises HwsearchError for a study of other conditions, where the reference cannot be measured, where no
    device is left, and for a full disk; KeyboardInterrupt after Ctrl-C. What was measured is kept.
    """
    predicted = with_all_shapes(predicted)
    space = predicted.space
    with ExitStack() as held:
        folder = held.enter_context(claim(predicted.folder.path, {}))
        store = held.enter_context(claimed_storage(storage or str(folder.journal), warn))
        stop = held.enter_context(StopOnInterrupt())
        try:
            found = objectives(space, predicted.reference, predicted.reference)
            study = open_study(
                store,
                study_name(space.name),
                _digest(identity(space), backend),
                {objective.name: objective.direction for objective in found},
                RandomSampler(),  # never asked: the coordinator asks MeasuredSampler itself
                of=OTHER,
            )
            alone = storage is None or is_one_file(storage)
            coordinator = Coordinator(
                predicted,
                study,
                engine,
                Leases(study, f"{platform.node()}:{folder.path.resolve()}", alone=alone, lease_s=lease_s),
                Measurements(folder.measurements, warn),
                backend=backend,
                report=report,
                warn=warn,
                stop=stop,
            )
            result = coordinator.run(count)
            write_measured(result)
        except OSError as error:
            raise HwsearchError(
                f"{folder.path}: cannot write: {error.strerror or error}; what was measured is kept"
            ) from error
        except OptunaError as error:
            raise cannot_be_written(error, f"what was measured is kept in {folder.measurements}") from error
    return result


def check_measurable(space: SearchSpace, backend: str | None) -> None:
    """Raise HwsearchError where no device could run the space's reference as the space wants it run, and
    where no shape of the space is valid: before devices are asked for."""
    for gpu in space.gpus:
        jobs_of(space, gpu, space.reference, backend)
    if space.size <= LARGEST_GRID:
        valid_shapes(space)


def _digest(space: str, backend: str | None) -> str:
    """Of the space and of the code that is timed."""
    return hashlib.sha256(json.dumps([space, backend, timed_code()]).encode()).hexdigest()[:16]
