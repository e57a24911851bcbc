from __future__ import annotations

import json

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.training.log import StepRecord, open_log


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        phase="decay",
        loss=1.5 * step,
        learning_rate=1e-3,
        tokens=100 * step,
        tokens_per_second=2000.0,
        flops_utilisation=0.25,
        seconds=0.1 * step,
    )


def steps_of(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_going_on_drops_what_is_done_again(tmp_path):
    options = {"report": lambda line: None, "steps": 9, "bar": False}
    with open_log(tmp_path, step=0, position=0, **options) as log:
        log.step(record(1))
        after_one = log.position
        log.step(record(2))
        log.step(record(3))
    with open_log(tmp_path, step=1, position=after_one, **options) as log:
        log.step(record(2))
    assert steps_of(tmp_path) == [1, 2]


def test_tensorboard_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_log(tmp_path, lambda line: None, steps=9, step=0, position=0, bar=False) as log:
        log.step(record(1))
        log.step(record(2))
        log.held_out(2, 3.5, 1000)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [(1, 1.5), (2, 3.0)]
    assert [(e.step, e.value) for e in events.Scalars("held_out/loss")] == [(2, 3.5)]
    assert events.Scalars("training/flops_utilisation")[0].value == 0.25


def test_a_bar_in_place_of_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    lines = []
    with open_log(tmp_path, lines.append, steps=2, step=0, position=0, bar=True) as log:
        log.step(record(1))
        log.step(record(2))
    assert lines == []
    shown = capsys.readouterr().err
    assert "decay" in shown and "2/2" in shown and "2,000 tokens/s" in shown


def test_the_last_step_is_always_told(tmp_path):
    lines = []
    with open_log(tmp_path, lines.append, steps=2, step=0, position=0, bar=False) as log:
        log.step(record(1))
        log.step(record(2))
    assert lines == ["step 2/2  decay  loss 3.000  lr 1.0e-03  2,000 tokens/s  MFU 25%"]


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with (
        pytest.raises(HwsearchError, match=r"metrics\.jsonl: cannot write"),
        open_log(tmp_path, lambda line: None, steps=1, step=0, position=0, bar=False),
    ):
        pass
