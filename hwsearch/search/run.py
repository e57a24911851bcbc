"""One run: plan it, claim its folder and study, fill the study, write the winners."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from optuna.exceptions import OptunaError

from hwsearch.cost.tuned_attention import AttentionTime
from hwsearch.errors import HwsearchError
from hwsearch.gpu.plain import plain_gpu
from hwsearch.gpu.profile import CPU
from hwsearch.interrupt import StopOnInterrupt
from hwsearch.search.candidates import Report, price, silent
from hwsearch.search.identity import identity
from hwsearch.search.leases import Leases
from hwsearch.search.objectives import objectives
from hwsearch.search.plans import ExplorationPlan, FrontPlan, Session
from hwsearch.search.result import RunResult
from hwsearch.search.run_files import write_run
from hwsearch.search.run_folder import claim, default_path
from hwsearch.search.storage_url import is_one_file, without_password
from hwsearch.search.study import cannot_be_written, check_study, claimed_storage, complete_trials, open_study
from hwsearch.search.tables_used import tables_used
from hwsearch.shape.table import ShapeTable
from hwsearch.space.search_space import LARGEST_GRID, SearchSpace

SamplerName = Literal["front", "tpe"]
# A front is recorded whole up to this many shapes; front.csv always holds all of it.
DEFAULT_FRONT_TRIALS = 1000
DEFAULT_TPE_TRIALS = 200
LARGEST_SEED = 2**32 - 1


def run(
    space: SearchSpace,
    *,
    sampler: SamplerName | None = None,
    trials: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    storage: str | None = None,
    report: Report = silent,
    warn: Callable[[str], None] = lambda message: None,
) -> RunResult:
    """Search `space` with predicted costs; a run that was stopped goes on from its study.

    Args:
        sampler: front enumerates and records the exact Pareto front (the default up to
            5,000,000 shapes), tpe explores.
        trials: complete trials to reach in total.
        out: the run's folder, runs/<space> by default.
        storage: any Optuna storage URL; the folder's journal by default.
        report, warn: called with progress and with warnings.

    Raises HwsearchError for an infeasible space, a folder or a study of another run, and a full disk;
    KeyboardInterrupt after the trial in progress.
    """
    if trials is not None and trials < 1:
        raise HwsearchError(f"--trials: {trials}; accepted: 1 or more")
    if not 0 <= seed <= LARGEST_SEED:
        raise HwsearchError(f"--seed: {seed}; accepted: 0 to {LARGEST_SEED:,}")
    if sampler is None:
        sampler = "front" if space.size <= LARGEST_GRID else "tpe"
    reference = price(space, ShapeTable.of([space.reference]))
    # Whatever can be refused is refused before the folder is touched.
    plan: FrontPlan | ExplorationPlan
    if sampler == "front":
        plan = FrontPlan.of(space, reference, trials or DEFAULT_FRONT_TRIALS, report)
    else:
        plan = ExplorationPlan.of(space, reference, trials or DEFAULT_TPE_TRIALS, seed)
    digest, attention = identity(space), tables_used(space)
    inputs = _inputs(space, digest, attention, sampler, seed, storage)
    # Interrupts wait for the end of a trial: Optuna's journal must not be left in the middle of a write.
    with ExitStack() as held, StopOnInterrupt() as stop:
        if storage is not None:
            store = held.enter_context(claimed_storage(storage, warn))
            check_study(store, space.name, digest)
        folder = held.enter_context(claim(out or default_path(space), inputs))
        if storage is None:
            store = held.enter_context(claimed_storage(str(folder.journal), warn))
        try:
            directions = {o.name: o.direction for o in objectives(space, reference, reference)}
            study = open_study(store, space.name, digest, directions, plan.sampler)
            owner = f"{platform.node()}:{folder.path.resolve()}"
            leases = Leases(study, owner, alone=storage is None or is_one_file(storage))
            leases.recover()
            candidates, removals = plan.record(Session(study, leases, report, stop))
            recorded = len(complete_trials(study))
            result = RunResult.of(space, folder, candidates, reference, removals, recorded, attention)
            write_run(result, report)
        except OSError as error:
            raise HwsearchError(
                f"{folder.path}: cannot write: {error.strerror or error}; finished trials are kept"
            ) from error
        except OptunaError as error:
            raise cannot_be_written(error, "finished trials are kept") from error
    return result


def _inputs(
    space: SearchSpace,
    digest: str,
    attention: dict[str, AttentionTime],
    sampler: str,
    seed: int,
    storage: str | None,
) -> dict[str, Any]:
    """What decides the answer, in plain data; a run folder takes no other."""
    return {
        "space": space.name,
        "space_file": space.description(),
        "sampler": sampler,
        "seed": seed,
        "storage": without_password(storage or "study.log"),
        "attention": {name: str(time) for name, time in attention.items()},
        "identity": digest,
        # No file describes it, and every process would measure another one.
        **{gpu.name: plain_gpu(gpu) for gpu in space.gpus if gpu.name == CPU},
    }
