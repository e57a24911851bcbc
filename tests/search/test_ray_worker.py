"""What a worker on a Ray node says of its device, and what it refuses to run. Ray and GPUs are not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import Detected
from hwsearch.kernels.cpu_name import cpu_name
from hwsearch.measure.device import DeviceLost
from hwsearch.measure.failure import CRASH, ERROR, Failure
from hwsearch.measure.job import Job
from hwsearch.measure.row import Row
from hwsearch.search import ray_worker
from hwsearch.search.ray_worker import Worker
from hwsearch.shape import parse_shape
from hwsearch.workload import Workload, parse_workload

T4 = Detected(0, "Tesla T4", load_gpu("t4"), {})
STRANGER = Detected(0, "Riva 128", None, {}, "no profile names it")
NO_GPU = Detected(-1, "a CPU", load_gpu("t4"), {})


def job() -> Job:
    shape = parse_shape("L2-h64-a1-i128")
    return Job(shape, parse_workload("fixed:16x1"), "fp32", "inference", "eager", "none")


class Told(Worker):
    """Measures nothing: gives the answer that a test names, on the device that it names."""

    answer: Row | Failure
    found: tuple[str | None, str] = ("t4", "Tesla T4")

    def run(self, job: Job) -> Row | Failure:
        return self.answer

    def device(self) -> tuple[str | None, str]:
        return self.found


@pytest.fixture
def worker() -> Told:
    worker = Told("t4")
    worker.answer = {"gpu": "t4", "device": "Tesla T4", "p50_s": 0.01}
    return worker


def test_a_valid_job_is_measured(worker: Told) -> None:
    assert worker.measure(job()) == worker.answer


def spoilt(name: str, value: object) -> Job:
    """As pickle builds one, with no check."""
    made = job()
    object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        ("import os", "not accepted: a str, where jobs are measured"),
        (spoilt("dtype", "int8"), "not accepted: dtype: 'int8'"),
        (spoilt("backend", "__import__"), "not accepted: backend"),
        (spoilt("shape", "L2"), "not accepted: shape: found a str"),
        (spoilt("workload", Workload("w", (16, 10**9), 16)), "not accepted: workload w: length 1000000000"),
    ],
)
def test_nothing_but_a_valid_job_is_run(worker: Told, sent: Any, complaint: str) -> None:
    answer = worker.measure(sent)
    assert isinstance(answer, Failure) and answer.kind == ERROR and answer.reason.startswith(complaint)


def test_a_failure_is_the_jobs_while_the_device_is_there(worker: Told) -> None:
    worker.answer = Failure(CRASH, "killed by SIGSEGV")
    assert worker.measure(job()) == worker.answer
    worker.found = (None, "NVML finds no GPU")
    with pytest.raises(DeviceLost, match="it is no t4 any more: NVML finds no GPU"):
        worker.measure(job())


def test_a_row_of_another_gpu_is_no_answer(worker: Told) -> None:
    worker.answer = {"gpu": "l4", "device": "NVIDIA L4", "p50_s": 0.01}
    with pytest.raises(DeviceLost, match="it is no t4 any more: NVIDIA L4"):
        worker.measure(job())


@pytest.mark.parametrize(
    ("nvml", "device"),
    [
        ([T4, STRANGER], ("t4", "Tesla T4")),
        ([STRANGER], (None, "Riva 128: no profile names it")),
        ([NO_GPU], (None, "NVML finds no GPU")),
        ([], (None, "NVML finds no GPU")),
    ],
)
def test_a_device_is_the_first_that_the_worker_sees(
    nvml: list[Detected], device: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "visible", lambda: nvml)
    assert Worker("t4").device() == device


def test_a_cpu_is_known_by_its_name() -> None:
    found = Worker("cpu").describe()
    assert (found.gpu, found.product) == ("cpu", cpu_name())
    assert len(found.code) == 12 and "torch " in found.packages


@pytest.mark.parametrize("asked", [None, "3"])
def test_the_threads_that_ray_takes_away_come_back(asked: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if asked is None else {"OMP_NUM_THREADS": asked}
    code = (
        "import os; os.environ.setdefault('OMP_NUM_THREADS', '1')\n"  # as Ray does
        "from hwsearch.search.ray_worker import Worker\n"
        "Worker('cpu'); print(os.environ.get('OMP_NUM_THREADS'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(asked), done.stderr
