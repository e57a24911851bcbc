"""Energy as the objective, alone and beside time, on figures that are made up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hwsearch.measure.conditions import Conditions
from hwsearch.measure.race import FASTER, SLOWER, UNDECIDED, Comparison, Finalist
from hwsearch.tuning import bench, workshop
from hwsearch.tuning.bench import Measured
from hwsearch.tuning.campaign import tune_kernel
from hwsearch.tuning.final_race import Objective, Tuned
from hwsearch.tuning.kernel import Config
from hwsearch.tuning.sampler import MEASURED
from hwsearch.tuning.workshop import Workshop
from tests.tuning.in_process import Here

DEFAULT: Config = {"rows": 16, "warps": 8}
CONFIGS: list[Config] = [
    {"rows": rows, "warps": warps} for rows, warps in itertools.product((16, 32, 64, 128), (1, 2, 4, 8))
]


def seconds(config: Config) -> float:
    """Fastest with 128 rows and 8 warps."""
    return 1e-3 * (1 + 0.3 * (7 - math.log2(config["rows"])) + 0.15 * (3 - math.log2(config["warps"])))


def joules(config: Config) -> float:
    """Least with 128 rows and 1 warp, which takes 1.45 times as long."""
    return seconds(config) * (200 + 80 * math.log2(config["warps"]))


UNWATCHED = Conditions(**{each.name: None for each in fields(Conditions)} | {"tries": 1})


@dataclass(frozen=True)
class PaperKernel:
    device: str = "cpu"
    compiles: bool = False

    def configurations(self) -> list[Config]:
        return CONFIGS

    def default(self) -> Config:
        return DEFAULT


class PaperRaces:
    asked: list[Config] = []  # noqa: RUF012

    def __init__(self, kernel: PaperKernel) -> None:
        self._best: Config | None = None

    def prepare(self, best: Config | None) -> None:
        self._best = best

    def trial(self, config: Config, most_pairs: int, risk: float) -> Measured:
        ratio = 1.0 if self._best is None else seconds(config) / seconds(self._best)
        verdict = FASTER if ratio < 1 or self._best is None else SLOWER if ratio > 1 else UNDECIDED
        return Measured(seconds(config), ratio, verdict, most_pairs, 0.0, UNWATCHED)

    def joules(self, config: Config) -> float:
        self.asked.append(config)
        return joules(config)

    def finals(self, configs: Sequence[Config], by_energy: bool, most: int, risk: float) -> list[Finalist]:
        values = [(joules if by_energy else seconds)(config) for config in configs]
        order = np.argsort(values)
        return [Finalist(str(i), values[i], 0.01, values[i] / min(values), most) for i in order]

    def duel(self, config: Config, default: Config, by_energy: bool, most: int, risk: float) -> Comparison:
        ours, theirs = ((joules if by_energy else seconds)(each) for each in (config, default))
        verdict = FASTER if ours < theirs else UNDECIDED
        return Comparison(verdict, ours / theirs, ours / theirs, ours / theirs, ours, theirs, most)

    def taint(self) -> str | None:
        return "thermal slowdown"


@pytest.fixture(autouse=True)
def paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "Child", Here)
    monkeypatch.setattr(bench, "Races", PaperRaces)
    monkeypatch.setattr(PaperRaces, "asked", [])


def tune(folder: Path, objective: Objective) -> Tuned:
    return tune_kernel(
        PaperKernel(), "paper", {}, trials=len(CONFIGS), seconds=60.0, objective=objective, folder=folder,
        workshop=Workshop(0), report=lambda progress: None, warn=lambda message: None,
    )  # fmt: skip


def study(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "paper.log")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def test_least_energy_among_those_nearly_as_fast(tmp_path: Path) -> None:
    found = tune(tmp_path, "energy")
    best: Any = min((c for c in CONFIGS if seconds(c) <= 1.5e-3), key=joules)
    assert found.config == best and found.joules == pytest.approx(joules(best))
    assert found.seconds == pytest.approx(seconds(best))
    assert found.taint == "thermal slowdown"
    assert found.default_seconds == pytest.approx(seconds(DEFAULT))
    # A second and more a configuration is not spent on those that are far too slow.
    assert len(PaperRaces.asked) < len(CONFIGS)
    for trial in study(tmp_path).trials:
        if trial.state == TrialState.PRUNED:
            assert trial.intermediate_values and "joules" not in {
                name for name, value in trial.user_attrs.items() if value is not None
            }


def test_both_give_the_fastest_and_the_front(tmp_path: Path) -> None:
    found = tune(tmp_path, "both")
    fastest: Any = min(CONFIGS, key=seconds)
    assert found.config == fastest and found.joules == pytest.approx(joules(fastest))
    front = [config for config, _ in found.alternatives]
    losses = [(seconds(config), joules(config)) for config in (found.config, *front)]
    assert [a < b for (a, _), (b, _) in itertools.pairwise(losses)] == [True] * len(front)
    assert [a > b for (_, a), (_, b) in itertools.pairwise(losses)] == [True] * len(front)
    assert front[-1] == min((c for c in CONFIGS if seconds(c) <= 1.5e-3), key=joules)
    assert len(study(tmp_path).directions) == 2
    pruned = [t for t in study(tmp_path).trials if t.state == TrialState.PRUNED]
    assert pruned and all(trial.user_attrs[MEASURED][1] is None for trial in pruned)


def test_time_asks_for_no_energy(tmp_path: Path) -> None:
    found = tune(tmp_path, "time")
    assert found.config == min(CONFIGS, key=seconds) and found.joules is None
    assert not PaperRaces.asked
