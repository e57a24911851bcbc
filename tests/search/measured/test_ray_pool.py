"""Which worker of a Ray cluster gets which job. Ray is not needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hwsearch.measure.job import Job
from hwsearch.search.measured.ray_pool import Patience, Pool, Slot, Task
from hwsearch.search.measured.ray_worker import Worker
from hwsearch.shape import parse_shape
from hwsearch.workload import parse_workload


def job(depth: int, sequences: int) -> Job:
    shape = parse_shape(f"L{depth}-h64-a1-i128")
    return Job(shape, parse_workload(f"fixed:16x{sequences}"), "fp32", "inference", "eager", "none")


class FakeActor:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.measure = SimpleNamespace(remote=self._measure)

    def _measure(self, job: Job) -> object:
        self.asked.append((job.shape.num_hidden_layers, job.workload.batch_size))
        return self


def hand_out(pool: Pool, *jobs: Job) -> None:
    """All workers are free, then these jobs come."""
    for slot in pool._slots:
        slot.reply = slot.task = None
    pool._waiting["t4"].extend(Task(ticket, "t4", each) for ticket, each in enumerate(jobs))
    pool._hand_out()


def test_the_next_workload_of_a_shape_goes_to_the_worker_that_had_the_last() -> None:
    pool = Pool(["t4"], Worker, Patience())
    actors: list[Any] = [FakeActor(), FakeActor()]
    pool._slots = [Slot("t4", "node", "here", actor, None, begun=0.0, ready=True) for actor in actors]
    hand_out(pool, job(2, 1), job(3, 1))
    hand_out(pool, job(3, 2), job(2, 2))
    hand_out(pool, job(3, 3))
    hand_out(pool, job(4, 1), job(3, 4), job(2, 3))
    assert [actor.asked for actor in actors] == [[(2, 1), (2, 2), (4, 1)], [(3, 1), (3, 2), (3, 3), (3, 4)]]
    assert [task.job for task in pool._waiting["t4"]] == [job(2, 3)]
