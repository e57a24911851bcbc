"""The middle rung: what is measured, what a kill costs, what a device that leaves costs, what is answered."""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from fake_engine import FakeEngine, Killed, row_of, seconds_of
from optuna.trial import TrialState, create_trial

from hwsearch.errors import HwsearchError
from hwsearch.gpu.cpu import measure_cpu
from hwsearch.measure.failure import CRASH, OUT_OF_MEMORY, Failure
from hwsearch.measure.job import Job
from hwsearch.search.contest.score import entrants
from hwsearch.search.measured.engine import Answer
from hwsearch.search.measured.result import MeasuredResult
from hwsearch.search.measured.rung import measure_front
from hwsearch.search.measured.sampler import MeasuredSampler
from hwsearch.search.measured.study import FAILED_ON, measured_so_far
from hwsearch.search.result import RunResult
from hwsearch.search.run import run
from hwsearch.search.run_folder import RunFolder, kept_cpu, shape_of_run, winners_of_run
from hwsearch.search.storage.leases import LOST_BY, Leases
from hwsearch.search.storage.study import open_storage
from hwsearch.shape import EncoderShape, parse_shape
from hwsearch.shape.notation import shape_yaml
from hwsearch.space.search_space import load_space

BOTH = ("t4", "l4")


@pytest.fixture
def predicted(small_space: Path, tmp_path: Path) -> RunResult:
    return run(load_space(str(small_space)), out=tmp_path / "run", trials=5)


def again(predicted: RunResult) -> RunResult:
    """The same run, as another process finds it."""
    return run(predicted.space, out=predicted.folder.path, trials=5)


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.measurements.read_text().splitlines()]


def trials(folder: RunFolder, name: str = "small measured") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(str(folder.journal))).trials


def kill(*arguments: object) -> None:
    raise Killed


def complete(folder: RunFolder) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in trials(folder) if trial.state == TrialState.COMPLETE]


def test_the_answer_comes_from_what_was_measured(predicted: RunResult) -> None:
    engine = FakeEngine(BOTH)
    result = measure_front(predicted, engine, count=6)
    assert len(result.shapes) == 6
    space = predicted.space
    # The reference and six shapes, on two GPUs and two workloads, nothing twice.
    assert len(engine.asked) == len(set(engine.asked)) == 7 * 2 * 2 == len(lines(predicted.folder))
    assert engine.asked[0][1] in {
        row["key"] for row in lines(predicted.folder) if row["shape"] == str(space.reference)
    }
    summary = json.loads(predicted.folder.measured_summary.read_text())
    assert summary["source"] == "measured" and summary["counts"]["measured"] == 6
    measured = {row["shape"]: row for row in summary["shapes"]}
    assert len(measured) == 7 and summary["shapes"][0]["is_reference"]
    for winner in summary["winners"]:
        assert winner["latency_ms"] == [measured[winner["shape"]]["measured_ms"][gpu] for gpu in BOTH]
    assert shape_of_run(str(predicted.folder.path)) == parse_shape(summary["winners"][0]["shape"])
    table = pd.read_csv(predicted.folder.measured_table)
    assert len(table) == 7 and {"predicted_ms[t4]", "measured_ms[l4]", "error[t4]"} <= set(table.columns)


def test_measured_latency_is_the_weighted_mean_over_the_workloads(predicted: RunResult) -> None:
    result = measure_front(predicted, FakeEngine(BOTH), count=1)
    space, found = predicted.space, result.reference.on["t4"]
    first, second = (
        seconds_of(Job(space.reference, workload, "fp16", "inference", "graph", "none"), "t4")
        for workload in space.workloads
    )
    assert found.measured_s == pytest.approx((first * second**0.5) ** (1 / 1.5))
    assert found.slowest_s == max(first, second)


def test_how_predicted_and_measured_compare_is_said_for_each_gpu(predicted: RunResult) -> None:
    summary = measure_front(predicted, FakeEngine(BOTH), count=8).summary()
    assert list(summary["accuracy"]) == list(BOTH)
    for gpu in BOTH:
        found = summary["accuracy"][gpu]
        ratios = sorted(row["predicted_ms"][gpu] / row["measured_ms"][gpu] - 1 for row in summary["shapes"])
        assert found["shapes"] == 9 and found["bias"] == pytest.approx(ratios[4])
        assert found["median_error"] == pytest.approx(sorted(map(abs, ratios))[4])
    assert summary["hypervolume"][-1] == pytest.approx(1.0)
    assert summary["hypervolume"] == sorted(summary["hypervolume"])


@pytest.mark.parametrize("kill_after", [0, 1, 3, 4, 5, 9, 14])
def test_a_killed_run_goes_on_and_measures_nothing_twice(predicted: RunResult, kill_after: int) -> None:
    first = FakeEngine(BOTH, kill_after=kill_after)
    with pytest.raises(Killed):
        measure_front(predicted, first, count=4)
    second = FakeEngine(BOTH)
    result = measure_front(again(predicted), second, count=4)
    assert len(result.shapes) == 4
    assert not set(first.asked) & set(second.asked)
    assert len(lines(predicted.folder)) == len(first.asked) + len(second.asked)
    done = [trial.user_attrs["shape_hash"] for trial in complete(predicted.folder)]
    assert len(done) == len(set(done)) == 5
    assert all(trial.state.is_finished() for trial in trials(predicted.folder))


def test_what_a_kill_left_running_is_finished_first(predicted: RunResult) -> None:
    with pytest.raises(Killed):
        measure_front(predicted, FakeEngine(BOTH, kill_after=6), count=4)
    left = [trial for trial in trials(predicted.folder) if trial.state == TrialState.RUNNING]
    assert len(left) >= 1
    measure_front(again(predicted), FakeEngine(BOTH), count=4)
    done = {trial.user_attrs["shape"] for trial in complete(predicted.folder)}
    assert {trial.user_attrs["shape"] for trial in left} <= done


def test_what_was_measured_is_in_the_study_after_a_second_kill_at_the_start(
    predicted: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first leaves a trial running, the second dies when it has ended it and not yet begun another; the
    last is asked for no more than is there."""
    with pytest.raises(Killed):
        measure_front(predicted, FakeEngine(BOTH, kill_after=12), count=4)
    done = len(complete(predicted.folder)) - 1
    with monkeypatch.context() as second, pytest.raises(Killed):
        second.setattr("hwsearch.search.measured.coordinator.Coordinator._keep_to", kill)
        measure_front(again(predicted), FakeEngine(BOTH), count=4)
    assert all(trial.state.is_finished() for trial in trials(predicted.folder))
    measure_front(again(predicted), FakeEngine(BOTH), count=done)
    measured = {row["shape_hash"] for row in lines(predicted.folder)}
    hashes = [trial.user_attrs["shape_hash"] for trial in complete(predicted.folder)]
    assert len(hashes) == len(set(hashes)) > 1 + done and set(hashes) >= measured


def test_what_was_measured_is_in_the_study_where_another_took_it_over_and_died(
    predicted: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took it before the first or the last answer; what is proposed again is under way already."""
    warned: list[str] = []
    propose, proposals = MeasuredSampler.propose, iter([True, True, True])
    monkeypatch.setattr(
        MeasuredSampler, "propose", lambda *asked: propose(*asked) if next(proposals, False) else None
    )

    class Robbed(FakeEngine):
        def next(self, timeout_s: float) -> Answer | None:
            if len(self.asked) in (4, 11):
                study = optuna.load_study(
                    study_name="small measured", storage=open_storage(str(predicted.folder.journal))
                )
                Leases(study, "another", alone=True).recover()
            return super().next(timeout_s)

    engine = Robbed(BOTH)
    measure_front(predicted, engine, count=2, warn=warned.append)
    assert warned and all(line.endswith("another process has taken it over") for line in warned)
    assert len(engine.asked) == len(set(engine.asked))
    hashes = [trial.user_attrs["shape_hash"] for trial in complete(predicted.folder)]
    assert len(hashes) == len(set(hashes)) == 3
    assert set(hashes) == {row["shape_hash"] for row in lines(predicted.folder)}
    assert any(LOST_BY in trial.user_attrs for trial in trials(predicted.folder))


def test_a_finished_run_measures_nothing_and_more_trials_go_on(predicted: RunResult) -> None:
    first = measure_front(predicted, FakeEngine(BOTH), count=3)
    idle = FakeEngine(BOTH)
    same = measure_front(again(predicted), idle, count=3)
    assert idle.asked == [] and same.summary() == first.summary()
    more = FakeEngine(BOTH)
    assert len(measure_front(again(predicted), more, count=5).shapes) == 5
    assert len(more.asked) == 2 * 4


def test_a_torn_row_is_measured_again_and_said(predicted: RunResult) -> None:
    with pytest.raises(Killed):
        measure_front(predicted, FakeEngine(BOTH, kill_after=7), count=4)
    path = predicted.folder.measurements
    path.write_bytes(path.read_bytes()[:-9])
    warned: list[str] = []
    engine = FakeEngine(BOTH)
    measure_front(again(predicted), engine, count=4, warn=warned.append)
    assert "measurements.jsonl:7: a kill tore the last line" in warned[0]
    assert len(engine.asked) == 5 * 4 - 6


def test_a_broken_row_in_the_middle_is_refused_and_left_alone(predicted: RunResult) -> None:
    measure_front(predicted, FakeEngine(BOTH), count=1)
    path = predicted.folder.measurements
    content = path.read_text().splitlines(keepends=True)
    content[1] = '{"key": "k", "gpu": "t4", "source": "measured", "p50_s": -1.0}\n'
    path.write_text("".join(content))
    with pytest.raises(HwsearchError, match=r"measurements\.jsonl:2: not a measurement"):
        measure_front(again(predicted), FakeEngine(BOTH), count=2)
    assert path.read_text() == "".join(content)


def test_a_shape_that_fails_is_not_tried_again_nor_elsewhere(predicted: RunResult) -> None:
    reference = predicted.space.reference

    def fails(gpu: str, job: Job) -> Failure | None:
        odd = job.shape != reference and job.shape.num_hidden_layers % 2
        return Failure(OUT_OF_MEMORY, "no room") if odd and gpu == "t4" else None

    engine = FakeEngine(BOTH, fails=fails)
    result = measure_front(predicted, engine, count=5)
    assert len(result.shapes) == 5 and not any(each.shape.num_hidden_layers % 2 for each in result.shapes)
    assert result.failed and {each.failure for each in result.failed} == {"out of memory: no room"}
    failed = [trial for trial in trials(predicted.folder) if trial.state == TrialState.FAIL]
    assert {trial.user_attrs[FAILED_ON] for trial in failed} == {"t4"}
    hashes = [trial.user_attrs["shape_hash"] for trial in failed]
    assert len(hashes) == len(set(hashes))
    # Both GPUs had a job of it at once; of its second workload nothing was asked.
    rows = [row for row in lines(predicted.folder) if row["shape_hash"] == hashes[0]]
    assert len(rows) == 2 and sorted(row["source"] for row in rows) == ["failed", "measured"]
    later = FakeEngine(BOTH)
    measure_front(again(predicted), later, count=7)
    asked = {key for _, key in later.asked}
    assert not asked & {row["key"] for row in lines(predicted.folder)[: len(engine.asked)]}


class TwoEach(FakeEngine):
    """Two devices of each GPU, of which the first is slower; what was submitted and answered, in turn."""

    def __init__(self) -> None:
        super().__init__(BOTH)
        self.log: list[tuple[str, str, EncoderShape]] = []
        self.most: Counter[str] = Counter()
        self._out: list[tuple[int, str, Job]] = []

    def slots(self, gpu: str) -> int:
        return 2

    def submit(self, ticket: int, gpu: str, job: Job) -> None:
        out = [each for _, other, each in self._out if other == gpu]
        assert len(out) < 2 and job.shape not in [each.shape for each in out]
        self._out.append((ticket, gpu, job))
        self.log.append(("submit", gpu, job.shape))
        self.most[gpu] = max(self.most[gpu], len(out) + 1)

    def next(self, timeout_s: float) -> Answer | None:
        if not self._out:
            return None
        ticket, gpu, job = self._out.pop(-1 if len(self.log) % 3 else 0)
        self.log.append(("answer", gpu, job.shape))
        return Answer(ticket, gpu, row_of(job, gpu), None)


def test_a_shape_keeps_its_device_until_all_its_workloads_are_measured(predicted: RunResult) -> None:
    engine = TwoEach()
    result = measure_front(predicted, engine, count=6)
    assert len(result.shapes) == 6 and engine.most == {"t4": 2, "l4": 2}
    for gpu in BOTH:
        log = [(what, shape) for what, other, shape in engine.log if other == gpu]
        assert len(log) == 2 * 7 * 2
        asked = Counter[EncoderShape]()
        for (what, shape), following in itertools.pairwise(log):
            asked[shape] += what == "submit"
            if what == "answer" and asked[shape] < 2:
                assert following == ("submit", shape)


def test_where_nothing_can_be_measured_the_search_ends(predicted: RunResult) -> None:
    reference = predicted.space.reference
    warned: list[str] = []
    result = measure_front(
        predicted,
        FakeEngine(BOTH, fails=lambda gpu, job: None if job.shape == reference else Failure(CRASH, "boom")),
        count=3,
        warn=warned.append,
    )
    assert result.shapes == [] and len(result.failed) >= 10
    assert len(warned) == 1 and "no more are tried" in warned[0]
    # All that was measured is the reference, which is one of the space's shapes here.
    assert [winner["shape"] for winner in result.summary()["winners"]] == [str(reference)]


def test_a_reference_that_fails_ends_the_run_and_is_tried_again(predicted: RunResult) -> None:
    broken = FakeEngine(BOTH, fails=lambda gpu, job: Failure(CRASH, "boom"))
    with pytest.raises(HwsearchError, match=r"the reference \S+ cannot be measured on \w+: crash: boom"):
        measure_front(predicted, broken, count=1)
    assert len(measure_front(again(predicted), FakeEngine(BOTH), count=1).shapes) == 1


def test_a_gpu_without_a_device_is_predicted_and_said_so(predicted: RunResult) -> None:
    warned: list[str] = []
    result = measure_front(predicted, FakeEngine(["l4"]), count=3, warn=warned.append)
    assert warned == ["no device measures t4: predicted there"]
    summary = result.summary()
    assert [gpu["source"] for gpu in summary["gpus"]] == ["predicted", "measured"]
    winner = summary["winners"][0]
    row = next(row for row in summary["shapes"] if row["shape"] == winner["shape"])
    assert winner["latency_ms"] == pytest.approx([row["predicted_ms"]["t4"], row["measured_ms"]["l4"]])


def test_a_device_that_leaves_costs_its_gpu_alone(predicted: RunResult) -> None:
    warned: list[str] = []
    engine = FakeEngine(BOTH, gone_after={"t4": 5})
    result = measure_front(predicted, engine, count=5, warn=warned.append)
    assert warned == ["t4: it left; it is predicted from here on"]
    on_t4 = [shape for shape in result.shapes if "t4" in shape.on]
    assert len(result.shapes) == 5 and 1 <= len(on_t4) < 5
    # What is predicted there is corrected by what was measured there.
    lost = next(index for index, shape in enumerate(result.shapes) if "t4" not in shape.on)
    ratio = result.answer.candidates.latency[0, lost] / predicted.candidates.latency[0, result.rows[lost]]
    assert ratio != pytest.approx(1.0)


def test_the_last_device_that_leaves_ends_the_run_and_keeps_what_was_measured(predicted: RunResult) -> None:
    with pytest.raises(HwsearchError, match="l4: it left; no other GPU of the basket is left"):
        measure_front(predicted, FakeEngine(["l4"], gone_after={"l4": 5}), count=5)
    assert len(lines(predicted.folder)) == 5
    engine = FakeEngine(["l4"])
    measure_front(again(predicted), engine, count=5)
    assert len(engine.asked) == 6 * 2 - 5


def test_a_gpu_that_the_reference_was_not_measured_on_stays_predicted(predicted: RunResult) -> None:
    measure_front(predicted, FakeEngine(["l4"]), count=1)
    warned: list[str] = []
    engine = FakeEngine(BOTH)
    measure_front(again(predicted), engine, count=2, warn=warned.append)
    assert warned == ["t4: the reference was not measured on it, so it is predicted"]
    assert {gpu for gpu, _ in engine.asked} == {"l4"}


class AnswersLate(FakeEngine):
    """What it has measured last is known only after its devices have left."""

    late: Answer | None = None

    def next(self, timeout_s: float) -> Answer | None:
        if self.late is not None:
            answer, self.late = self.late, None
            return answer
        answer = super().next(timeout_s)
        if answer is not None and len(self.asked) == 5:
            self.gpus, self.late = frozenset(), answer
            return None
        return answer


def test_what_was_measured_before_the_last_device_left_is_kept(predicted: RunResult) -> None:
    with pytest.raises(HwsearchError, match="l4: nothing measures it any more; no other GPU"):
        measure_front(predicted, AnswersLate(["l4"]), count=5)
    assert len(lines(predicted.folder)) == 5


def test_ctrl_c_keeps_every_answer_that_is_there(predicted: RunResult) -> None:
    class Interrupted(FakeEngine):
        def next(self, timeout_s: float) -> Answer | None:
            if len(self.asked) == 3:
                signal.raise_signal(signal.SIGINT)
            return super().next(timeout_s)

    engine = Interrupted(BOTH)
    with pytest.raises(KeyboardInterrupt):
        measure_front(predicted, engine, count=5)
    assert len(lines(predicted.folder)) == len(engine.asked) >= 4
    assert len(measure_front(again(predicted), FakeEngine(BOTH), count=2).shapes) == 2


def test_others_trials_of_no_shape_of_the_space_do_not_count(predicted: RunResult) -> None:
    measure_front(predicted, FakeEngine(BOTH), count=1)
    study = optuna.load_study(
        study_name="small measured", storage=open_storage(str(predicted.folder.journal))
    )
    for _ in range(3):
        study.add_trial(create_trial(state=TrialState.COMPLETE, values=[1.0] * len(study.directions)))
    assert len(measure_front(again(predicted), FakeEngine(BOTH), count=3).shapes) == 3


def test_another_device_of_the_same_name_is_not_mixed_in(predicted: RunResult) -> None:
    measure_front(predicted, FakeEngine(BOTH), count=1)
    with pytest.raises(
        HwsearchError, match=r"was measured on a card, torch 2\.13, triton 3\.6, and is another"
    ):
        measure_front(again(predicted), FakeEngine(BOTH, device="another"), count=2)
    assert len(lines(predicted.folder)) == 2 * 4


def test_a_study_of_another_backend_is_refused(predicted: RunResult) -> None:
    measure_front(predicted, FakeEngine(BOTH), count=1)
    with pytest.raises(HwsearchError, match="small measured: belongs to another --backend"):
        measure_front(again(predicted), FakeEngine(BOTH), count=1, backend="sdpa")


def test_a_study_of_other_code_is_refused(predicted: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_front(predicted, FakeEngine(BOTH), count=1)
    monkeypatch.setattr("hwsearch.search.measured.rung.timed_code", lambda: "0123456789ab")
    with pytest.raises(HwsearchError, match="another version of the code that builds and times encoders"):
        measure_front(again(predicted), FakeEngine(BOTH), count=1)


def test_training_goes_on_from_the_measured_front(predicted: RunResult) -> None:
    assert measured_so_far(again(predicted), None, print) is None
    result = measure_front(predicted, FakeEngine(BOTH), count=5)
    found = measured_so_far(again(predicted), None, print)
    assert found is not None and found.summary() == result.summary()
    field = entrants(found.answer, 3)
    measured = {row["shape"]: row for row in result.summary()["shapes"]}
    assert len(field) == 4 and {str(entrant.shape) for entrant in field} <= set(measured)
    winner = result.summary()["winners"][0]
    assert winner["basket_latency_ms"] / 1e3 in [entrant.basket_latency_s for entrant in field]


def test_a_cpus_profile_is_kept_by_the_run(small_space: Path, tmp_path: Path) -> None:
    """So that a process that measures the CPU anew goes on with the same predictions."""
    cpu, path = measure_cpu(), tmp_path / "run"
    assert kept_cpu(path) is None
    space = load_space(str(small_space)).with_gpus(["cpu"], cpu)
    first = run(space, out=path, trials=3)
    measure_front(first, FakeEngine(["cpu"]), count=1)
    kept = kept_cpu(path)
    assert kept == cpu
    slower = replace(cpu, bandwidth_bytes_per_s=cpu.bandwidth_bytes_per_s / 2)
    with pytest.raises(HwsearchError, match="belongs to a run with other GPU profiles"):
        run(space.with_gpus(["cpu"], slower), out=path, trials=3)
    idle = FakeEngine(["cpu"])
    measure_front(run(space.with_gpus(["cpu"], kept), out=path, trials=3), idle, count=1)
    assert idle.asked == []


def test_the_dearest_rung_has_the_winner(predicted: RunResult) -> None:
    folder, run_path = predicted.folder, str(predicted.folder.path)
    assert winners_of_run(run_path)[0] == folder.winner(0)
    measure_front(predicted, FakeEngine(BOTH), count=3)
    assert winners_of_run(run_path)[0] == folder.measured_winner(0)
    folder.trained_winner.parent.mkdir()
    folder.trained_winner.write_text(shape_yaml(parse_shape("L3-h192-a3-i512")))
    assert shape_of_run(run_path) == parse_shape("L3-h192-a3-i512")


def test_a_measurement_decides_about_a_limit(small_space: Path, tmp_path: Path) -> None:
    """The devices are some four times as fast as predicted; the limit leaves little of the prediction."""
    path = tmp_path / "limited.yaml"
    path.write_text(f"{small_space.read_text()}limits: {{latency_ms: {{t4: 0.9}}}}\n")
    predicted = run(load_space(str(path)), out=tmp_path / "limited")
    result = measure_front(predicted, FakeEngine(BOTH), count=12)
    assert len(result.shapes) == 12 > len(predicted.candidates)
    limited = {str(shape.shape) for shape in result.shapes if 1e3 * shape.on["t4"].slowest_s > 0.9}
    assert not limited & {winner["shape"] for winner in result.summary()["winners"]}
    assert len(result.answer.front) > 2
    found = measured_so_far(predicted, None, print)
    assert found is not None and found.summary() == result.summary()


def test_a_space_that_is_used_up_ends_early(tmp_path: Path, small_space: Path) -> None:
    text = (
        small_space.read_text().replace("max: 9", "max: 4").replace("{min: 128, max: 320, step: 64}", "[192]")
    )
    space = tmp_path / "narrow.yaml"
    space.write_text(text.replace("max: 1024, step: 64", "max: 512, step: 128"))
    found = run(load_space(str(space)), out=tmp_path / "narrow")
    result: MeasuredResult = measure_front(found, FakeEngine(BOTH), count=1000)
    assert result.exhausted and 0 < len(result.shapes) <= len(found.candidates)


def test_a_space_of_one_shape_is_measured_beside_its_reference(one_shape_space: Path, tmp_path: Path) -> None:
    text = one_shape_space.read_text()
    assert "reference: L4-" in text
    one_shape_space.write_text(text.replace("reference: L4-", "reference: L5-"))
    found = measure_front(
        run(load_space(str(one_shape_space)), out=tmp_path / "one"), FakeEngine(BOTH), count=5
    )
    assert [shape.shape.num_hidden_layers for shape in found.shapes] == [4] and found.exhausted
