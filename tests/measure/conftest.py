"""A fake NVML in the place of the real one; benches that children import."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwsearch.measure.nvml import Watch, watch_gpu
from tests.measure.fake_nvml import CARD, UUID, fake_nvml


@pytest.fixture(scope="module")
def benches() -> Iterator[Any]:
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)  # a child finds what its parent finds
    yield importlib.import_module("benches")
    sys.path.remove(here)


@pytest.fixture
def card() -> dict[str, Any]:
    """The only card of the machine; a test changes what it answers."""
    return copy.deepcopy(CARD)


@pytest.fixture
def watch_card(card: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Watch]:
    def watch() -> Watch:
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card))
        return watch_gpu(UUID, "00000000:1b:00.0")

    return watch
