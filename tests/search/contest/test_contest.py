"""The third rung: who enters, who is ended early, what a kill costs, what the noise tells apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch

from hwsearch.errors import HwsearchError
from hwsearch.measure.child import Child
from hwsearch.report.contest import contest_table
from hwsearch.search.contest import apart as apart_module
from hwsearch.search.contest import contest as contest_module
from hwsearch.search.contest import result as contest_result_module
from hwsearch.search.contest.apart import train_apart
from hwsearch.search.contest.contest import hold_contest
from hwsearch.search.contest.recipe import STAGES, contest_recipe
from hwsearch.search.contest.result import ContestResult, State, Trained
from hwsearch.search.contest.score import Entrant, entrants, on_front, past_plateau, score, spread
from hwsearch.search.run import run
from hwsearch.search.run_folder import RunFolder
from hwsearch.search.storage.study import open_storage
from hwsearch.shape import parse_shape
from hwsearch.space.search_space import load_space
from hwsearch.training import Recipe, TrainingResult, train
from hwsearch.training.loop import Judge
from hwsearch.training.token_cache import token_cache
from hwsearch.training.unigram import unigram_loss
from tests.search.contest.nano_space import SPACE

torch.set_num_threads(1)

STEPS, TOKENS_PER_STEP = 16, 128


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "nano.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"line {n}: the square of {n} is {n * n}" for n in range(900)))
    return path


def train_here(*arguments: Any, **named: Any) -> TrainingResult:
    return train(*arguments, **named, resume=True, report=lambda line: None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, and judged from the first stage on, which so short a run never deserves."""
    monkeypatch.setattr(contest_module, "train_apart", train_here)
    for module in (contest_module, contest_result_module):
        monkeypatch.setattr(module, "past_plateau", lambda reference_loss, unigram: True)


def recipe_for(tokens: int = STEPS * TOKENS_PER_STEP) -> Recipe:
    return contest_recipe(tokens, tokens_per_step=TOKENS_PER_STEP, sequence_length=32)


def hold(space: Path, text: Path, out: Path, tokens: int = STEPS * TOKENS_PER_STEP) -> ContestResult:
    predicted = run(load_space(str(space)), out=out)
    return hold_contest(predicted, recipe_for(tokens), [text], count=3)


def test_the_reference_and_the_best_of_the_front_enter(space: Path, tmp_path: Path) -> None:
    predicted = run(load_space(str(space)), out=tmp_path / "run")
    field = entrants(predicted, 3)
    assert len(field) == 4 and field[0].is_reference and field[0].cost == 0
    kinds = [(e.shape.num_hidden_layers, e.shape.hidden_size) for e in field[1:]]
    assert len(set(kinds)) == 3 and predicted.space.reference not in [e.shape for e in field[1:]]
    for entrant in field[1:]:  # latency is all the cost there is
        assert entrant.cost == pytest.approx(math.log(entrant.basket_latency_s / field[0].basket_latency_s))


def test_a_percent_of_loss_is_worth_thirteen_of_latency() -> None:
    entrant = Entrant(parse_shape("L2-h64-a1-i128"), math.log(1.14), 1.0)
    assert score(entrant, 3.0, 3.0, 1.0) == pytest.approx(math.log(1.14))
    assert score(entrant, 0.99 * 3.0, 3.0, 1.0) < 0 < score(entrant, 0.991 * 3.0, 3.0, 1.0)


def test_spread_is_the_standard_deviation_of_one_run() -> None:
    assert spread([]) is None
    assert spread([(1.0, 1.2)]) == pytest.approx(0.2 / math.sqrt(2))
    assert spread([(1.0, 1.2), (3.0, 3.0)]) == pytest.approx(0.1)


def test_the_front_is_of_loss_and_latency() -> None:
    assert on_front([1.0, 2.0, 3.0, 2.5], [3.0, 2.0, 1.0, 2.5]) == [True, True, True, False]
    assert on_front([], []) == []


def test_a_whole_run_is_eight_stages() -> None:
    recipe = recipe_for(19 * TOKENS_PER_STEP)
    assert recipe.phases[0].tokens == 2 * STAGES * TOKENS_PER_STEP
    assert recipe.phases[0].keep_every == 2
    with pytest.raises(HwsearchError, match="train-tokens: 1,023; accepted: 1,024 or more"):
        recipe_for(1023)


def trained(shape: str, seed: int, loss: float, found: float, state: State = "complete") -> Trained:
    entrant = Entrant(parse_shape(shape), 0.0, 1.0, is_reference=shape == "L1-h64-a1-i64")
    return Trained(entrant, seed, state, {100: loss}, found)


def test_close_scores_are_not_told_apart(tmp_path: Path) -> None:
    runs = [
        trained("L1-h64-a1-i64", 0, 3.0, 0.0),
        trained("L2-h64-a1-i64", 0, 2.9, -0.50),
        trained("L3-h64-a1-i64", 0, 2.8, -0.48),
        trained("L4-h64-a1-i64", 0, 2.8, -0.60, "pruned"),
        trained("L1-h64-a1-i64", 1, 3.1, 0.0),
        trained("L2-h64-a1-i64", 1, 3.0, -0.49),
        trained("L3-h64-a1-i64", 1, 2.9, -0.49),
    ]
    result = ContestResult(RunFolder(tmp_path), runs, 100, 5.0, 1.0, {})
    assert str(result.winner.entrant.shape).startswith("L2")  # a pruned one never wins
    assert [str(shape)[:2] for shape in result.equals()] == ["L3"]
    noise = result.summary()["noise"]
    assert noise["loss_pairs"] == 3 and noise["score_pairs"] == 2
    assert noise["loss"] == pytest.approx(0.1 / math.sqrt(2))


def test_a_contest_prunes_and_is_recorded(
    space: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = hold(space, text, tmp_path / "run")
    first = [run for run in result.trained if run.seed == 0]
    assert len(first) == 4 and first[0].entrant.is_reference and first[0].state == "complete"
    assert {run.state for run in first} == {"complete", "pruned"}
    whole = STEPS * TOKENS_PER_STEP
    for run_ in result.trained:
        expected = {whole} if run_.state == "complete" else {whole // 8, whole // 4, whole // 2}
        assert run_.tokens in expected and run_.loss is not None

    storage = open_storage(str(tmp_path / "run" / "study.log"))
    trials = optuna.load_study(storage=storage, study_name="nano trained").trials
    assert len(trials) == len(result.trained)
    assert {trial.user_attrs["source"] for trial in trials} == {"trained"}
    table = pd.read_csv(tmp_path / "run" / "trained.csv")
    assert list(table["held_out_loss"]) == pytest.approx([run.loss for run in table_order(result)])
    winner = parse_shape(str(tmp_path / "run" / "trained" / "shape.yaml"))
    assert winner == result.winner.entrant.shape
    assert json.loads((tmp_path / "run" / "trained.json").read_text())["winner"] == str(winner)
    assert not list((tmp_path / "run" / "trained").glob("*/checkpoints"))

    # Nothing is trained again, and other conditions are refused.
    monkeypatch.setattr(contest_module, "train_apart", lambda *_, **__: pytest.fail("trained again"))
    assert hold(space, text, tmp_path / "run").summary() == result.summary()
    with pytest.raises(HwsearchError, match="--train-tokens"):
        hold(space, text, tmp_path / "run", 2 * whole)


def table_order(result: ContestResult) -> list[Trained]:
    return [*result.ranked, *(run for run in result.trained if run.seed)]


def test_a_shape_that_fails_leaves_the_others(
    space: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_for_the_second(shape: Any, *arguments: Any, **named: Any) -> TrainingResult:
        if shape == field[1].shape:
            raise HwsearchError("the GPU's memory is full")
        return train_here(shape, *arguments, **named)

    field = entrants(run(load_space(str(space)), out=tmp_path / "run"), 3)
    monkeypatch.setattr(contest_module, "train_apart", fails_for_the_second)
    result = hold(space, text, tmp_path / "run")
    failed = [run for run in result.trained if run.state == "failed"]
    assert [run.entrant.shape for run in failed] == [field[1].shape]
    assert failed[0].failure == "the GPU's memory is full" and failed[0].loss is None
    assert result.ranked[-1] is failed[0]


def test_a_killed_contest_ends_as_an_unbroken_one(
    space: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed_half_way(shape: Any, data: Sequence[Path], out: Path, *rest: Any, **named: Any) -> Any:
        """The process is gone after a step that is a checkpoint, and again at one the judge has seen."""
        inner, kills = named["judge"], killed.setdefault(out.name, [])

        def judge(step: int, loss: float) -> bool:
            if step == 4 and len(kills) == 0:
                kills.append(step)
                raise KilledError
            answer: bool = inner(step, loss)
            if step == 6 and len(kills) == 1:
                kills.append(step)
                raise KilledError
            return answer

        return train_here(shape, data, out, *rest, **{**named, "judge": judge})

    killed: dict[str, list[int]] = {}
    expected = hold(space, text, tmp_path / "unbroken").summary()
    monkeypatch.setattr(contest_module, "train_apart", killed_half_way)
    for _ in range(20):
        try:
            found = hold(space, text, tmp_path / "killed").summary()
            break
        except KilledError:
            continue
    assert sum(map(len, killed.values())) >= 3
    assert found == expected


def test_losses_of_several_vocabularies_are_not_compared(space: Path, text: Path, tmp_path: Path) -> None:
    space.write_text(SPACE.replace("vocab_size: 320", "vocab_size: [320, 384]"))
    with pytest.raises(HwsearchError, match="several vocabularies"):
        hold(space, text, tmp_path / "run")


def test_nobody_is_ended_while_the_reference_knows_frequencies_alone(
    space: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (contest_module, contest_result_module):
        monkeypatch.setattr(module, "past_plateau", past_plateau)
    said: list[str] = []
    warned: list[str] = []
    predicted = run(load_space(str(space)), out=tmp_path / "run")
    result = hold_contest(predicted, recipe_for(), [text], count=3, say=said.append, warn=warned.append)
    assert {run.state for run in result.trained} == {"complete"}
    assert result.judged_from is None and result.summary()["judged_from_tokens"] is None
    (warning,) = warned
    assert f"not clearly below {result.unigram_loss:.2f}" in warning and "--train-tokens" in warning
    assert "these ranks say little" in contest_table(result.summary())
    (line,) = said  # the time, before anything is trained
    assert line.startswith("to train: 4 shapes, 2,048 tokens each, and 3 with a second seed: at most about")

    hold_contest(predicted, recipe_for(), [text], count=3, say=said.append)
    assert len(said) == 1  # nothing is left to train


def test_ranks_count_from_where_the_reference_reads_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {100: 4.4, 200: 2.8, 400: 2.6, 800: 2.0}
    reference = Entrant(parse_shape("L1-h64-a1-i64"), 0.0, 1.0, is_reference=True)
    runs = [Trained(reference, 0, "complete", losses, 0.0)]
    assert past_plateau(2.6, 4.5) and not past_plateau(2.8, 4.5)
    monkeypatch.setattr(contest_result_module, "past_plateau", past_plateau)
    assert ContestResult(RunFolder(tmp_path), runs, 800, 4.5, 1.0, {}).judged_from == 400


def test_frequencies_alone_give_the_entropy_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "coin.txt"
    path.write_text("".join("ab"[(n * n // 7) % 2] * 3 + "\n" for n in range(40_000)))
    text = token_cache([path], vocab_size=320, tokens=10_000)
    held_out = text.held_out.tokens[: text.held_out.offsets[-1]]
    _, counts = np.unique(held_out, return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert entropy <= unigram_loss(text) < entropy + 0.05


SHAPE = parse_shape("L1-h64-a1-i64-v320-p64")


def test_a_process_of_its_own_trains_the_same(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here: torch sums the norms' gradients by threads
    losses: dict[str, list[tuple[int, float]]] = {"apart": [], "here": []}
    for name, how in (("apart", train_apart), ("here", train_here)):
        result = how(
            SHAPE,
            [text],
            tmp_path / name,
            recipe_for(),
            tokenizer=None,
            rates_of=SHAPE,
            judge=lambda step, loss, name=name: losses[name].append((step, loss)) or step == 4,
        )
        assert result.judged and result.steps == 4
    assert losses["apart"] == losses["here"] and len(losses["here"]) == 2


def test_a_crash_and_bad_input_cost_one_shape(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KnownChild(Child):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            children.append(self)

    children: list[Child] = []
    monkeypatch.setattr(apart_module, "Child", KnownChild)

    def kill_it(step: int, loss: float) -> bool:
        process = children[-1]._process
        assert process is not None
        process.kill()
        return False

    def apart(data: Path, judge: Judge) -> TrainingResult:
        return train_apart(
            SHAPE, [data], tmp_path / "out", recipe_for(), tokenizer=None, rates_of=SHAPE, judge=judge
        )

    with pytest.raises(HwsearchError, match="killed by SIGKILL, as when the host runs out of memory"):
        apart(text, kill_it)
    with pytest.raises(HwsearchError, match=r"nowhere\.txt: no such file"):
        apart(tmp_path / "nowhere.txt", kill_it)
