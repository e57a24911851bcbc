"""Times of calls on the CPU; on a GPU where there is one."""

from __future__ import annotations

import sys
import time
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

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


def test_on_a_gpu_the_flush_is_outside_the_timed_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a device played here: a clock that each piece of work moves on."""
    clock, log = 0.0, []

    def work(name: str, seconds: float) -> None:
        nonlocal clock
        clock += seconds
        log.append(name)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock

        def elapsed_time(self, later: Event) -> float:
            return (later.at - self.at) * 1e3

    cuda = SimpleNamespace(
        Event=Event,
        _sleep=lambda cycles: work("sleep", cycles / 2e9),
        synchronize=lambda: None,
        current_device=lambda: 0,
        get_device_properties=lambda index: SimpleNamespace(L2_cache_size=50 << 20),
    )
    buffers: list[int] = []

    def empty(size: int, **_: object) -> object:
        buffers.append(size)
        return SimpleNamespace(zero_=lambda: work("flush", 5e-5))

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, empty=empty, uint8=None))
    timing._l2_buffer.cache_clear()
    plan = warm_up(lambda: work("call", 1e-3), CUDA)
    log.clear()
    assert sample(plan) == pytest.approx(1e-3)
    assert log == ["sleep", *["flush", "call"] * 4]
    assert buffers == [50 << 20]
    # A slow host queues fewer calls, so that none is waited for.
    assert warm_up(lambda: (time.sleep(0.01), work("call", 1e-4)), CUDA).repeats == 1
    # Where the host's launches are part of what is asked, the device does not sleep while they queue up.
    plan = warm_up(lambda: work("call", 1e-3), CUDA, queued=False)
    log.clear()
    sample(plan)
    assert log == ["flush", "call"] * 4
    timing._l2_buffer.cache_clear()


def torch_that_captures(capture: Any, graph: Any) -> SimpleNamespace:
    """A stand-in for torch with one stream."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=nullcontext,
        graph=capture,
        CUDAGraph=graph,
    )
    return SimpleNamespace(cuda=cuda, _C=SimpleNamespace(_cuda_clearCublasWorkspaces=lambda: None))


def test_what_a_graph_reads_lives_as_long_as_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the allocator gives weights and tokens away, and a replay finds what others wrote there."""

    class Weights:
        pass

    def uses(weights: Weights) -> timing.Call:
        return lambda: weights and "out"

    replays: list[str] = []
    graph = SimpleNamespace(replay=lambda: replays.append("replay"))
    monkeypatch.setitem(sys.modules, "torch", torch_that_captures(nullcontext, lambda: graph))
    weights = Weights()
    held = weakref.ref(weights)
    replay = graphed(uses(weights))
    del weights
    assert held() is not None
    assert (replay(), replays) == ("out", ["replay"])


def test_a_capture_that_fails_says_what_failed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that ran out must be told from what cannot be captured; the end of the capture tells neither."""

    class Capture:
        def __init__(self, graph: object) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setitem(sys.modules, "torch", torch_that_captures(Capture, object))
    calls = 0

    def runs_out_at_last() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise MemoryError("CUDA out of memory")

    with pytest.raises(MemoryError):
        graphed(runs_out_at_last)
    with pytest.raises(RuntimeError, match="previous error"):
        graphed(lambda: None)


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
def test_gaps_between_launches_are_timed_where_they_are_asked_for() -> None:
    x = torch.randn(1024, device=CUDA)

    def call() -> None:
        x.add_(1.0)
        time.sleep(2e-4)  # the host is slow, the device is not

    assert sample(warm_up(call, CUDA)) < 1e-4
    assert sample(warm_up(call, CUDA, queued=False)) > 1e-4
