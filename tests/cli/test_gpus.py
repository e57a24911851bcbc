"""`hwsearch gpus`, `gpus show`, `gpus detect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tuned_rows import row, write

from hwsearch.gpu.catalog import gpu_names, profile_path
from hwsearch.kernels.tuned import LENGTHS, Key
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


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of a family of their own, that no shipped table is of."""
    text = profile_path("h100-sxm").read_text().replace("value: '9.0'", "value: '9.4'")
    assert "value: '9.4'" in text
    (tmp_path / "cards").mkdir()
    for name in ("card-a", "card-b"):
        (tmp_path / "cards" / f"{name}.yaml").write_text(text.replace("name: h100-sxm", f"name: {name}"))
    monkeypatch.setenv("HWSEARCH_PROFILES", str(tmp_path / "cards"))


def attention(shown: str) -> list[list[str]]:
    """Words of the rows about attention, without their header."""
    section = shown.split("attention of hwsearch.kernels")[1].split("\n\n")[0]
    return [line.split() for line in section.splitlines()[2:]]


def test_show_says_which_attention_backend_and_why(cli: Cli, cards: None) -> None:
    t4, hopper = (cli("gpus", "show", gpu).stdout for gpu in ("t4", "card-a"))
    cpu = cli("gpus", "show", "cpu", CXX="no-such-compiler").stdout
    assert [row[:3] for row in attention(t4)] == [
        ["fp16", "global", "efficient"],
        ["fp16", "local", "efficient"],
    ]
    assert t4.count("not triton: Triton uses tensor cores from compute capability 8.0, not on 7.5") == 2
    assert "blocks along the diagonal" in t4
    assert [row[:3] for row in attention(hopper)[:4]] == [
        [dtype, layers, "triton"] for dtype in ("fp16", "bf16") for layers in ("global", "local")
    ]
    assert "by capability: no measurement of this GPU" in hopper and "predictions price fa3" in hopper
    assert [row[:3] for row in attention(cpu)] == [
        ["fp32", "global", "cpu"],
        ["fp32", "local", "cpu"],
    ]
    assert (
        cpu.count("plain PyTorch for CPUs; not native: no C++ compiler: no-such-compiler is not found") == 2
    )


def measured(folder: Path, kernel: str, gpu: str, *keys: Key, **change: object) -> Path:
    return write(folder / "tuned", gpu, *(row(kernel, key, **change) for key in keys), kernel=kernel)


def test_show_takes_a_measurement_of_ones_own(cli: Cli, tmp_path: Path, cards: None) -> None:
    kernel = "attention_backend_training"
    path = measured(
        tmp_path, kernel, "card-a", *(Key("bf16", 64, "narrow", length) for length in (64, 128, 512)),
        alternatives=(({"backend": "triton"}, 3e-4),),
    )  # fmt: skip
    shown = cli("gpus", "show", "card-a", HWSEARCH_CACHE=str(tmp_path)).stdout
    assert f"{path}: 2026-11-21" in shown and "no measurement of this GPU" not in shown
    lines = [line.split() for line in shown.splitlines() if "local narrow" in line]
    reason = "measured on card-a, 3.00x as fast as triton"
    found = [" ".join(line) for line in lines if "torch_flash" in line]
    assert found == [
        f"bf16 local narrow, up to 32, training torch_flash same GPU: {reason}",
        f"bf16 local narrow, 33 to 512, training torch_flash exact: {reason}",
        f"bf16 local narrow, 513 to 2048, training torch_flash same GPU: {reason}",
    ]
    # What is the same next to it, and for both passes, is one line.
    assert ["bf16", "local", "narrow,", "over", "2048", "triton"] in [line[:6] for line in lines]
    path.write_text("{")
    broken = cli("gpus", "show", "card-a", HWSEARCH_CACHE=str(tmp_path))
    assert broken.returncode == 0 and "no measurement of this GPU" in broken.stdout
    assert (
        broken.stderr.startswith(f"hwsearch: warning: {path}: ignored: ") and broken.stderr.count("\n") == 1
    )


def test_show_says_how_the_tiles_are_tuned(cli: Cli, tmp_path: Path, cards: None) -> None:
    keys = [Key("bf16", 64, "global", length) for length in LENGTHS]
    path = measured(tmp_path, "attention_forward", "card-a", *keys, triton="3.6.0")
    measured(tmp_path, "attention_backward", "card-b", *keys[3:])
    shown = cli("gpus", "show", "card-a", HWSEARCH_CACHE=str(tmp_path)).stdout
    section = shown.split("tiles of its triton backend")[1].split("\n\n")[0].splitlines()
    assert [line.split() for line in section[2:7]] == [
        ["fp16", "global", "default", "default"],
        ["fp16", "local", "default", "default"],
        ["bf16", "global,", "up", "to", "128", "exact", "default"],
        ["bf16", "global,", "over", "128", "exact", "same", "family:", "card-b"],
        ["bf16", "local", "default", "default"],
    ]
    assert f"  {path}: triton 3.6.0, 2026-11-21" in section
    default = cli("gpus", "show", "card-a").stdout
    assert "fp16, bf16  global  default  default" in default
    assert "tiles of its triton backend" not in cli("gpus", "show", "t4").stdout


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


def test_detect_prints_what_ray_start_takes(cli: Cli) -> None:
    done = cli("gpus", "detect", "--ray", CUDA_VISIBLE_DEVICES="")
    offered = json.loads(done.stdout)
    # A machine with GPUs hides them all here; one without any has its CPU.
    assert done.returncode == 0 and offered in ({}, {"hw:cpu": 1})
