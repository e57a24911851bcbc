"""Times of calls on the CPU; on a GPU where there is one."""

from __future__ import annotations

import time

import pytest

from hwsearch.measure import timing
from hwsearch.measure.device import CUDA
from hwsearch.measure.timing import Timing, graphed, interleaved, sample, summary, warm_up

torch = pytest.importorskip("torch")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_a_sleep_takes_its_time() -> None:
    plan = warm_up(lambda: time.sleep(0.01), "cpu")
    assert plan.repeats == 1
    assert 0.01 <= sample(plan) < 1.0


def test_short_calls_are_repeated_and_never_take_no_time() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    plan = warm_up(call, "cpu")
    assert plan.repeats == timing.MOST_REPEATS
    before = calls
    assert sample(plan) > 0
    assert calls - before == plan.repeats


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'gpu', accepted are 'cuda' and 'cpu'"):
        warm_up(lambda: None, "gpu")


def test_versions_take_turns() -> None:
    order: list[str] = []

    def version(name: str) -> object:
        def call() -> None:
            order.append(name)
            time.sleep(0.03)  # longer than a warm-up: two calls there, one in a sample

        return call

    found = interleaved({name: version(name) for name in "abc"}, "cpu", rounds=2)  # type: ignore[misc]
    assert "".join(order[-6:]) == "abccba"
    assert all(isinstance(one, Timing) for one in found.values())


def test_a_version_that_fails_is_its_reason_and_the_others_are_timed() -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel\nand a trace")

    found = interleaved({"broken": broken, "fine": lambda: None}, "cpu", rounds=2)
    assert found["broken"] == "RuntimeError: no such kernel"
    assert isinstance(found["fine"], Timing)


def test_halves_show_drift() -> None:
    found = summary([1.0, 1.0, 1.0, 1.1, 1.1, 1.1])
    assert (found.first, found.second) == (1.0, 1.1)
    assert found.spread == pytest.approx(0.1)
    assert summary([2.0]).spread == 0.0


@pytest.mark.gpu
@needs_gpu
def test_a_product_on_the_gpu_takes_at_least_what_its_operations_do() -> None:
    a = torch.randn(4096, 4096, device=CUDA, dtype=torch.bfloat16)
    plan = warm_up(lambda: a @ a, CUDA)
    seconds = sample(plan)
    assert 2 * 4096**3 / seconds < 5e15, "more than any GPU does"
    assert sample(warm_up(graphed(lambda: a @ a), CUDA)) == pytest.approx(seconds, rel=0.3)


@pytest.mark.gpu
@needs_gpu
def test_gaps_between_launches_are_not_timed() -> None:
    x = torch.randn(1024, device=CUDA)

    def call() -> None:
        x.add_(1.0)
        time.sleep(2e-4)  # the host is slow, the device is not

    assert sample(warm_up(call, CUDA)) < 1e-4
