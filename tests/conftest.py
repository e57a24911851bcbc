"""What several tests need: a small space that prices in milliseconds, and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared: how long an example takes says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

SMALL_SPACE = """\
shape:
  num_hidden_layers: {min: 2, max: 9}
  hidden_size: {min: 128, max: 320, step: 64}
  head_size: [32, 64]
  intermediate_size: {min: 128, max: 1024, step: 64}
  global_attn_every_n_layers: [1, 3]
  local_attention: [64, 128]
  vocab_size: 4096
  max_position_embeddings: 512
budget: {min: 1M, max: 4M}
basket: {t4: 2.0, l4: 1.0}
workloads:
  - {lengths: "fixed:128x32"}
  - {lengths: "normal:256,64,32..512x16", weight: 0.5}
objectives:
  latency: {weight: 1.0}
  quality_prior: {weight: 1.0}
reference: L4-h192-a3-i512-v4096-p512
"""


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the C++ kernels for this CPU will lie, here and in processes that are started: not yet there."""
    from hwsearch.kernels import tuned
    from hwsearch.kernels.cpu_kernels import library

    def forget() -> None:
        library.library.cache_clear()
        library.why_none.cache_clear()
        tuned.forget()

    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "cpu_kernels"
    forget()


@pytest.fixture
def no_compiler(nothing_compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs have plain torch alone."""
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def small_space(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_SPACE)
    return path


@pytest.fixture
def one_shape_space(tmp_path: Path) -> Path:
    """The small space reduced to its reference."""
    text = SMALL_SPACE
    for values, value in (
        ("{min: 2, max: 9}", "4"),
        ("{min: 128, max: 320, step: 64}", "192"),
        ("[32, 64]", "64"),
        ("{min: 128, max: 1024, step: 64}", "512"),
        ("[1, 3]", "3"),
        ("[64, 128]", "128"),
    ):
        assert values in text
        text = text.replace(values, value)
    path = tmp_path / "one.yaml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True, scope="session")
def nobodys_own_tables(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What who runs the tests has tuned on this machine stays out of them."""
    os.environ["HWSEARCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `hwsearch ARGS...` as a process in `tmp_path`."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hwsearch", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
