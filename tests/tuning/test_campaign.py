"""The tuner on a kernel that crashes, hangs and lies: each costs one trial, and nothing is lost."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hwsearch.errors import HwsearchError
from hwsearch.tuning.campaign import tune_kernel
from hwsearch.tuning.final_race import Limits, Tuned
from hwsearch.tuning.progress import Progress
from hwsearch.tuning.search_log import read_search
from hwsearch.tuning.workshop import Workshop

HERE = Path(__file__).parent
QUICK = Limits(compile_s=6.0, trial_s=6.0)


@pytest.fixture(scope="module")
def made_up() -> Iterator[Any]:
    sys.path.insert(0, str(HERE))  # a child finds what its parent finds
    yield importlib.import_module("made_up_kernel").MadeUpKernel
    sys.path.remove(str(HERE))


def tune(kernel: Any, folder: Path, **changes: Any) -> tuple[Tuned, list[Progress]]:
    seen: list[Progress] = []
    options: dict[str, Any] = {
        "trials": 100, "seconds": 120.0, "objective": "time", "limits": QUICK,
        "report": seen.append, "warn": lambda message: None,
    }  # fmt: skip
    with Workshop(changes.pop("workers", 1)) as workshop:
        options["workshop"] = workshop
        return tune_kernel(kernel, "made-up", {}, folder=folder, **{**options, **changes}), seen


def trials(folder: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "made-up.log")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def by_way(folder: Path) -> dict[str, FrozenTrial]:
    return {trial.params["way"]: trial for trial in trials(folder) if trial.state != TrialState.RUNNING}


def test_whatever_goes_wrong_costs_one_trial_with_its_reason(made_up: Any, tmp_path: Path) -> None:
    reasons = {
        "segfault": "SIGSEGV",
        "hang": "time-out: no answer within 6 s",
        "raise": "ValueError: an illegal instruction",
        "exit": "exit status 3",
        "out of memory": "out of memory",
        "wrong": "WrongResult: out is off by 1",
        "does not compile": "error: compiling: RuntimeError: PassManager::run failed",
        "hangs the compiler": "time-out: compiling",
        "crashes the compiler": "crash: compiling",
    }
    found, seen = tune(made_up(("sleep 10", "sleep 4", *reasons)), tmp_path, workers=2)
    assert found.config == {"way": "sleep 4"} and found.alternatives[0][0] == {"way": "sleep 10"}
    assert found.default_seconds is not None and found.seconds < 0.7 * found.default_seconds
    assert (found.trials, found.failures) == (len(reasons) + 2, len(reasons))
    ended = by_way(tmp_path)
    for way, reason in reasons.items():
        assert ended[way].state == TrialState.FAIL
        assert reason in ended[way].user_attrs["failure"], way
    # As files and pages see it.
    log = {str(each.config["way"]): each for each in read_search(tmp_path / "made-up.log")}
    assert {way: each.failure for way, each in log.items()} == {
        "sleep 10": None, "sleep 4": None, "segfault": "runtime", "hang": "timeout", "raise": "runtime",
        "exit": "runtime", "out of memory": "runtime", "wrong": "correctness", "does not compile": "compile",
        "hangs the compiler": "compile", "crashes the compiler": "compile",
    }  # fmt: skip
    assert log["sleep 10"].seconds is not None and log["hang"].benchmark_s > 5.9
    # The default first; what does not compile is never run.
    assert next(each for each in seen if each.state == "measuring").config == {"way": "sleep 10"}
    measured = {each.config["way"] for each in seen if each.state == "measuring" and each.config}
    assert not any("compile" in way for way in measured)
    assert seen[-1].state == "finals" and seen[-1].failures == len(reasons)


def test_losers_stop_early(made_up: Any, tmp_path: Path) -> None:
    ways = ("sleep 2", "sleep 4", "sleep 6", "sleep 9")
    found, _ = tune(made_up(ways), tmp_path, limits=Limits(most_pairs=40))
    assert found.config == {"way": "sleep 2"}
    ended = by_way(tmp_path)
    # The first is timed alone, as often as it may be.
    assert ended["sleep 2"].user_attrs["samples"] == 40
    assert ended["sleep 2"].user_attrs["tries"] == 1  # what the device was like is kept
    for way in ways[1:]:
        assert ended[way].state == TrialState.PRUNED and ended[way].user_attrs["samples"] < 20
        (estimate,) = ended[way].intermediate_values.values()
        assert estimate > ended["sleep 2"].value


def test_what_is_recommended_comes_right_after_the_default(made_up: Any, tmp_path: Path) -> None:
    ways = tuple(f"sleep {1 + n / 2}" for n in range(6))
    first = [{"way": "sleep 3.5"}, {"way": "sleep 2.0"}, {"way": "of another space"}]
    for trials, expected in ((2, ["sleep 1.0", "sleep 3.5"]), (3, ["sleep 2.0"])):
        _, seen = tune(made_up(ways), tmp_path, first=first, trials=trials, workers=0)
        asked = [each.config["way"] for each in seen if each.state == "measuring" and each.config]
        assert asked == expected


def test_a_tie_goes_to_the_default(made_up: Any, tmp_path: Path) -> None:
    # Blanks make three configurations that take the same time.
    found, _ = tune(made_up(("sleep 3", "sleep 3 ", "sleep 3  ")), tmp_path, limits=Limits(risk=1e-4))
    assert found.config == {"way": "sleep 3"} and found.seconds == found.default_seconds


def test_the_same_machine_code_is_measured_once(made_up: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    kernel = made_up(("sleep 2", "sleep 3 again", "sleep 3 and again"), str(log))
    tune(kernel, tmp_path)
    ways = {line.split(" ", 1)[1] for line in log.read_text().splitlines()}
    assert len(ways) == 2
    first, second = (by_way(tmp_path)[way] for way in ("sleep 3 again", "sleep 3 and again"))
    assert first.user_attrs["seconds"] == second.user_attrs["seconds"]


def test_without_a_default_that_runs_the_best_of_the_others_wins(made_up: Any, tmp_path: Path) -> None:
    found, _ = tune(made_up(("segfault", "sleep 4", "sleep 2")), tmp_path, workers=0)
    assert found.config == {"way": "sleep 2"} and found.default_seconds is None


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        (("raise", "segfault"), "none of 2 configurations runs; most often"),
        (("sleep 1", "no device"), "nothing can be measured here: .*no device"),
    ],
)
def test_where_nothing_runs_one_error_says_why(
    made_up: Any, tmp_path: Path, ways: tuple[str, ...], message: str
) -> None:
    with pytest.raises(HwsearchError, match=message):
        tune(made_up(ways), tmp_path)


def test_trials_and_seconds_are_kept_to_and_a_study_goes_on(made_up: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    kernel = made_up(tuple(f"sleep {1 + n / 4}" for n in range(12)), str(log))
    tune(kernel, tmp_path, trials=4)
    assert len(by_way(tmp_path)) == 4
    measured = {line.split(" ", 1)[1] for line in log.read_text().splitlines()}
    found, seen = tune(kernel, tmp_path, trials=7)
    asked = [each.config["way"] for each in seen if each.state == "measuring" and each.config]
    assert found.trials == 7 and len(asked) == 3 and not measured & set(asked)
    found, seen = tune(kernel, tmp_path, seconds=1e-9)
    assert [each.state for each in seen] == ["finals"]


def test_the_same_processes_serve_one_kernel_after_another(made_up: Any, tmp_path: Path) -> None:
    with Workshop(1) as workshop:
        for name in ("a", "b"):
            kernel = made_up(("sleep 1", "sleep 3"), str(tmp_path / name))
            found, _ = tune(kernel, tmp_path / f"of {name}", workshop=workshop)
            assert found.config == {"way": "sleep 1"}
    processes = [
        {line.split()[0] for line in (tmp_path / name).read_text().splitlines()} for name in ("a", "b")
    ]
    assert len(processes[0]) == 1 and processes[0] == processes[1]


def test_a_journal_without_a_search_is_named(tmp_path: Path) -> None:
    with pytest.raises(HwsearchError, match="no such file"):
        read_search(tmp_path / "absent.log")
    (tmp_path / "empty.log").touch()
    with pytest.raises(HwsearchError, match="holds no trial"):
        read_search(tmp_path / "empty.log")


def test_the_default_comes_first_even_where_it_was_killed_and_measured_later(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "made-up.log")))
    study = optuna.create_study(study_name="made-up", storage=storage)
    ways = {"way": optuna.distributions.CategoricalDistribution(("default", "other"))}
    for way, known in (("default", False), ("other", True), ("default", True)):
        study.enqueue_trial({"way": way})
        trial = study.ask(ways)
        if known:
            trial.set_user_attr("seconds", 1.0)
            study.tell(trial, 1.0)
        else:
            study.tell(trial, state=TrialState.FAIL)
    found = read_search(tmp_path / "made-up.log")
    assert [each.config["way"] for each in found] == ["default", "other"]


def test_two_tuners_at_once_are_refused(made_up: Any, tmp_path: Path) -> None:
    kernel = made_up(("sleep 1", "sleep 2"))

    def second(progress: Progress) -> None:
        if progress.state == "measuring":
            with pytest.raises(HwsearchError, match="another hwsearch"):
                tune(kernel, tmp_path)

    tune(kernel, tmp_path, report=second)


# A coordinator to be killed: it prints a line per trial that has ended.
COORDINATOR = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_up_kernel import MadeUpKernel
from hwsearch.tuning.campaign import Interrupted, tune_kernel
from hwsearch.tuning.workshop import Workshop
kernel = MadeUpKernel(tuple(f"sleep {1 + n / 4}" for n in range(40)), sys.argv[2] + "/log")
def report(progress):
    if progress.state in ("complete", "slower"):
        print(progress.config["way"], flush=True)
try:
    with Workshop(1) as workshop:
        tune_kernel(kernel, "made-up", {}, trials=40, seconds=60, objective="time", workshop=workshop,
                    folder=Path(sys.argv[2]), report=report, warn=print)
except Interrupted as stopped:
    print("best", stopped.tuned.config["way"], flush=True)
    sys.exit(130)
"""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        code = [sys.executable, "-c", COORDINATOR, str(HERE), str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def test_killed_at_any_moment_it_goes_on(
    made_up: Any, tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    ended: list[str] = []
    for count in (3, 4):
        process = coordinator()
        ended += lines(process, count)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(set(ended)) == 7
    # Those that own the device end with the coordinator.
    measuring = {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()}
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in measuring) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in measuring)
    kernel = made_up(tuple(f"sleep {1 + n / 4}" for n in range(40)), str(tmp_path / "log"))
    found, seen = tune(kernel, tmp_path, trials=12)
    again = {each.config["way"] for each in seen if each.state == "measuring" and each.config}
    assert found.trials == 12 and not again & set(ended)
    # What was running when the coordinator died is proposed again, without counting as a failure.
    assert found.failures == 0 and all(trial.state != TrialState.RUNNING for trial in trials(tmp_path))


def test_ctrl_c_keeps_the_best_so_far(
    tmp_path: Path, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    process = coordinator()
    lines(process, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "best sleep" in output
    assert all(trial.state != TrialState.RUNNING for trial in trials(tmp_path))
    json.dumps([trial.user_attrs for trial in trials(tmp_path)])
