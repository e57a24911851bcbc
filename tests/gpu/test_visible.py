"""What CUDA_VISIBLE_DEVICES leaves of a machine, and what Ray is told of it."""

from __future__ import annotations

import pytest

from hwsearch.gpu import visible as module
from hwsearch.gpu.catalog import load_gpu
from hwsearch.gpu.detect import Detected
from hwsearch.gpu.visible import resources, visible

T4, L4 = load_gpu("t4"), load_gpu("l4")
MACHINE = [
    Detected(0, "Tesla T4", T4, {}, uuid="GPU-11aa"),
    Detected(1, "Tesla T4", T4, {}, uuid="GPU-22bb"),
    Detected(2, "NVIDIA L4", L4, {}, uuid="GPU-33cc"),
    Detected(3, "Riva 128", None, {}, "no profile", uuid="GPU-44dd"),
]


@pytest.mark.parametrize(
    ("allowed", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("GPU-33,GPU-11aa", [2, 0]),
        ("", []),
        ("-1", []),
        ("1,7,2", [1]),
        ("MIG-11aa", []),
    ],
)
def test_hidden_gpus_are_left_out(
    allowed: str | None, indices: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "detect", lambda: MACHINE)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert [device.index for device in visible()] == indices


def test_a_cpu_is_never_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Detected(-1, "a CPU", load_gpu("t4"), {})
    monkeypatch.setattr(module, "detect", lambda: [cpu])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible() == [cpu]


def test_ray_is_told_how_many_of_each_profile() -> None:
    assert resources(MACHINE) == {"hw:t4": 2, "hw:l4": 1}
    assert resources([]) == {}
