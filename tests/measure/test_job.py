"""What may be measured, and the name it has in files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.measure.job import Job
from hwsearch.shape import PRESETS, EncoderShape, parse_shape
from hwsearch.workload import Workload, parse_workload

SHAPE = parse_shape("L2-h64-a2-i64")
JOB = Job(SHAPE, parse_workload("fixed:16x2"), "fp32", "inference", "eager", "none")


def test_the_key_depends_on_all_that_is_asked_and_on_nothing_else(tmp_path: Path) -> None:
    others = [
        replace(JOB, shape=parse_shape("L2-h64-a2-i64-w64")),
        replace(JOB, workload=parse_workload("fixed:16x3")),
        replace(JOB, dtype="bf16"),
        replace(JOB, head="mlm"),
        replace(JOB, head="mlm", mode="training"),
        replace(JOB, runtime="compile"),
        replace(JOB, backend="cpu"),
    ]
    assert len({JOB.key, *(each.key for each in others)}) == 1 + len(others)
    (tmp_path / "lengths").write_text("16\n16\n")
    same = replace(JOB, workload=parse_workload("lengths", tmp_path))
    assert same.key == JOB.key
    assert pickle.loads(pickle.dumps(JOB)) == JOB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "fp8"}, "dtype: 'fp8' cannot be measured; accepted: "),
        ({"runtime": "tensorrt"}, "runtime: 'tensorrt' cannot be measured; accepted: eager, graph, compile"),
        ({"mode": "training"}, "head: none has no loss"),
        ({"backend": "flash3"}, "backend: 'flash3' cannot be measured; accepted: triton"),
        ({"shape": PRESETS["bert-base"]}, "architecture: bert cannot be built"),
        ({"shape": "L2-h64-a2-i64"}, "shape: found a str"),
        ({"workload": "fixed:16x2"}, "workload: found a str"),
        ({"workload": Workload("mine", (), 1)}, "workload mine: 0 sequences"),
        ({"workload": Workload("mine", (16, -1), 16)}, "workload mine: length -1"),
        ({"workload": Workload("mine", (16, 1.5), 16)}, "workload mine: length 1.5"),  # type: ignore[arg-type]
        (
            {"shape": parse_shape("+position=learned:L2-h64-a2-i64-p8")},
            "length 16; accepted: up to 8",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(HwsearchError, match=message):
        replace(JOB, **change)  # type: ignore[arg-type]


def test_a_worker_finds_what_pickle_let_through() -> None:
    shape = pickle.loads(pickle.dumps(SHAPE))
    object.__setattr__(shape, "num_hidden_layers", -1)
    job = pickle.loads(pickle.dumps(JOB))
    object.__setattr__(job, "shape", shape)
    sent: Job = pickle.loads(pickle.dumps(job))
    with pytest.raises(HwsearchError, match="num_hidden_layers: -1"):
        sent.check()
    wired = EncoderShape(**SHAPE.sizes(), architecture=replace(SHAPE.architecture, norm_eps=-1.0))
    with pytest.raises(HwsearchError, match="norm_eps"):
        replace(JOB, shape=wired)
