from __future__ import annotations

import pytest

from hwsearch.gpu.catalog import load_gpu
from hwsearch.shape import parse_shape
from hwsearch.training import find_recipe, read_recipe
from hwsearch.training.plan import duration, make_plan
from hwsearch.training.schedule import Schedule

BASE = parse_shape("modernbert-base")


@pytest.fixture(scope="module")
def schedules():
    return [Schedule.of(phase) for phase in read_recipe(find_recipe("modernbert")).phases]


def plan_for(schedules, processes=8, **options):
    options = {"runtime": "compile", "recompute": False, "seconds_per_flop": None, **options}
    return make_plan(BASE, schedules, load_gpu("h100-sxm"), processes=processes, **options)


def test_the_papers_own_run(schedules):
    """Eight H100 trained 191.1, 36.3 and 7.5 hours in the three phases (arXiv 2412.13663, Table 3)."""
    plan = plan_for(schedules)
    assert 0.5 * 234.9 < plan.seconds / 3600 < 2 * 234.9
    assert plan.memory_bytes < load_gpu("h100-sxm").memory_bytes
    lines = plan.lines()
    assert "149,655,232 parameters, 438,480 steps" in lines[0] and "predicted for h100-sxm" in lines[0]
    assert lines[2].split()[:3] == ["pretraining", "374,901", "1,719,001,153,536"]
    assert len({line.index("%") for line in lines[2:]}) == 1


def test_processes_share_the_rows(schedules):
    assert plan_for(schedules, 8).seconds == pytest.approx(plan_for(schedules, 1).seconds / 8, rel=1e-3)
    assert plan_for(schedules, 7).seconds == pytest.approx(plan_for(schedules, 6).seconds * 7 / 8, rel=0.02)


def test_a_device_without_a_profile(schedules):
    plan = make_plan(
        BASE, schedules, None, processes=1, runtime="eager", recompute=False, seconds_per_flop=None
    )
    assert (plan.seconds, plan.memory_bytes) == (None, None)
    assert "about" not in plan.lines()[0]


def test_a_cpu_is_timed(schedules):
    plan = make_plan(
        BASE, schedules, load_gpu("cpu"), processes=1, runtime="eager", recompute=False,
        seconds_per_flop=lambda: 1e-12,
    )  # fmt: skip
    # 6 operations a parameter outside the embedding and token, and attention.
    assert plan.seconds > 6 * 110e6 * 2.019e12 * 1e-12


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 seconds"), (119, "119 seconds"), (600, "10 minutes"), (8e3, "2 hours"), (3e5, "3 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
