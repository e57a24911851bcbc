"""`hwsearch gpus`, `gpus show`, `gpus detect`."""

from __future__ import annotations

import json
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


def attention(shown: str) -> list[list[str]]:
    """Words of the rows about attention, without their header."""
    section = shown.split("attention of hwsearch.kernels")[1].split("\n\n")[0]
    return [line.split() for line in section.splitlines()[2:]]


def test_show_says_which_attention_backend_and_why(cli: Cli) -> None:
    t4, h100, cpu = (
        cli("gpus", "show", gpu, HWSEARCH_CACHE="nowhere").stdout for gpu in ("t4", "h100-sxm", "cpu")
    )
    assert [row[:3] for row in attention(t4)] == [
        ["fp16", "global", "efficient"],
        ["fp16", "local", "efficient"],
    ]
    assert t4.count("not triton: Triton uses tensor cores from compute capability 8.0, not on 7.5") == 2
    assert "blocks along the diagonal" in t4
    assert [row[:3] for row in attention(h100)[:4]] == [
        [dtype, layers, "triton"] for dtype in ("fp16", "bf16") for layers in ("global", "local")
    ]
    assert "by capability: no measurement of this GPU" in h100 and "predictions price fa3" in h100
    assert [row[:3] for row in attention(cpu)] == [
        ["fp32", "global", "cpu"],
        ["fp32", "local", "cpu"],
    ]


def test_show_takes_a_measurement_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    row = {"dtype": "bf16", "head_size": 64, "window": "local", "length": "short", "pass": "training"}
    row["seconds"] = {"triton": 3e-4, "torch_flash": 1e-4}
    table = {"format": 1, "gpu": "h100-sxm", "device": "NVIDIA H100 80GB HBM3", "source": "measured"}
    path = tmp_path / "tuned" / "h100-sxm" / "attention_backend.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table | {"rows": [row]}))
    shown = cli("gpus", "show", "h100-sxm", HWSEARCH_CACHE=str(tmp_path)).stdout
    assert f"measured: {path}" in shown
    (measured,) = [line for line in shown.splitlines() if "local, short, training" in line]
    assert "torch_flash" in measured and "measured on h100-sxm: 3.00x as fast as triton" in measured
    path.write_text("{")
    broken = cli("gpus", "show", "h100-sxm", HWSEARCH_CACHE=str(tmp_path))
    assert broken.returncode == 0 and "no measurement of this GPU" in broken.stdout
    assert (
        broken.stderr.startswith(f"hwsearch: warning: {path}: ignored: ") and broken.stderr.count("\n") == 1
    )


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
