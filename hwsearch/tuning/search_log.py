"""What a search looked at, read from its journal, for files and pages that show it."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.kernels.tuned import Key
from hwsearch.search.storage.study import open_storage
from hwsearch.tuning.kernel_study import CHECK_S, COMPILE_S, JOULES, SECONDS, TRIAL_S
from hwsearch.tuning.sampler import FAILURE
from hwsearch.tuning.t4_file import Evaluation


def journal_path(work: Path, gpu: str, kernel: str, key: Key) -> Path:
    """Where the searches of one row of a table lie, below the folder `work`."""
    return work / gpu / f"{kernel}-{key.dtype}-{key.head_size}-{key.window}-{key.length}.log"


def read_search(journal: Path) -> list[Evaluation]:
    """The trials that ended, the default first; of several studies in `journal` the one started last.

    Raises HwsearchError where it holds none.
    """
    if not journal.is_file():  # opening would create it
        raise HwsearchError(f"{journal}: cannot read: no such file")
    summaries = optuna.get_all_study_summaries(open_storage(str(journal)))
    started = sorted((s.datetime_start, s.study_name) for s in summaries if s.datetime_start is not None)
    if not started:
        raise HwsearchError(
            f"{journal}: holds no trial of a kernel; accepted: the journal of `hwsearch tune`"
        )
    study = optuna.load_study(study_name=started[-1][1], storage=open_storage(str(journal)))
    trials = study.get_trials(deepcopy=False)
    found = [evaluation for trial in trials if (evaluation := _evaluation(trial)) is not None]
    # The first was of the default; if it was killed, it was measured later.
    return sorted(found, key=lambda evaluation: evaluation.config != trials[0].params)


def _evaluation(trial: FrozenTrial) -> Evaluation | None:
    facts = trial.user_attrs
    failed = FAILURE in facts and trial.state == TrialState.FAIL
    if not failed and (SECONDS not in facts or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)):
        return None
    check_s, trial_s = facts.get(CHECK_S, 0.0), facts.get(TRIAL_S, 0.0)
    ended = trial.datetime_complete
    return Evaluation(
        trial.params,
        None if failed else facts[SECONDS],
        _kind(facts[FAILURE]) if failed else None,
        joules=facts.get(JOULES),
        compile_s=facts.get(COMPILE_S, 0.0),
        verification_s=check_s,
        benchmark_s=max(0.0, trial_s - check_s),
        timestamp=None if ended is None else ended.isoformat(),
    )


def _kind(reason: str) -> str:
    """In T4's words."""
    if ": compiling: " in reason:
        return "compile"
    if reason.startswith("time-out"):
        return "timeout"
    return "correctness" if "WrongResult" in reason else "runtime"
