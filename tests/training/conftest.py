"""Real text that every machine has: a few modules of Python's standard library."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Two threads that wait for each other on a busy machine are fifty times slower.
torch.set_num_threads(1)

MODULES = ("argparse.py", "textwrap.py", "json/decoder.py", "heapq.py", "bisect.py", "shlex.py")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokens go here rather than into the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWSEARCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def python_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for module in MODULES:
        shutil.copy(Path(sysconfig.get_path("stdlib"), module), folder / Path(module).name)
    return folder
