"""`hwsearch gpus`, `gpus show`, `gpus detect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.gpu.catalog import gpu_names
from tests.conftest import Cli


def test_every_gpu_is_listed(cli: Cli) -> None:
    done = cli("gpus")
    listed = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert done.returncode == 0 and listed == list(gpu_names()) and len(listed) == 24


def test_show_prints_sources_and_errors(cli: Cli) -> None:
    shown = cli("gpus", "show", "h100-sxm").stdout
    assert "132" in shown and "3,350 GB/s" in shown and "ai-dynamo/aiconfigurator" in shown
    assert "% on cases the fit did not see" in shown
    assert "with constants fitted on other GPUs" in cli("gpus", "show", "l4").stdout


def test_without_a_driver_the_cpu_is_found(cli: Cli) -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        found = cli("gpus", "detect")
        assert found.returncode == 0 and found.stdout.startswith("CPU: ") and ": cpu" in found.stdout
    else:
        pynvml.nvmlShutdown()
        assert cli("gpus", "detect").stdout.startswith("GPU 0: ")


def test_an_unknown_gpu_and_a_broken_profile(cli: Cli, tmp_path: Path) -> None:
    done = cli("gpus", "show", "rtx-3090")
    assert done.returncode == 2 and "did you mean rtx3090" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mycard.yaml").write_text("name: mycard\nsms: many\n")
    broken = cli("gpus", "show", "mycard", HWSEARCH_PROFILES=str(tmp_path / "mine"))
    assert broken.returncode == 2 and "mycard.yaml" in broken.stderr and "Traceback" not in broken.stderr
