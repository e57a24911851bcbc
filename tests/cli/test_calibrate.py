"""hwsearch calibrate in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def hwsearch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hwsearch", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    rows = [f"gemm,4096,{n},{k},{n * k / 1e6}" for n in (1024, 2048, 4096) for k in (1024, 2048)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["op,m,n,k,measured_ms", *rows, ""]), encoding="utf-8")
    return path


def test_prints_errors_and_writes_a_profile_that_is_used(tmp_path: Path, measurements: Path) -> None:
    done = hwsearch(tmp_path, "calibrate", "--gpu", "l4", "--measurements", str(measurements))
    assert done.returncode == 0, done.stderr
    assert "6 measured rows" in done.stdout and "shapes held out" in done.stdout
    assert "HWSEARCH_PROFILES=calibrated" in done.stdout
    assert [path.name for path in (tmp_path / "calibrated").iterdir()] == ["l4.yaml"]
    shape = ("predict", "bert-base", "--gpu", "l4")
    before = hwsearch(tmp_path, *shape).stdout
    after = hwsearch(tmp_path, *shape, HWSEARCH_PROFILES="calibrated").stdout
    assert "constants: calibrated" in after and "constants: calibrated" not in before
    # Other GPUs are still the shipped ones.
    other = hwsearch(tmp_path, "predict", "bert-base", "--gpu", "t4", HWSEARCH_PROFILES="calibrated")
    assert other.returncode == 0


def test_the_folder_of_profiles_is_the_default_and_is_fitted_again(
    tmp_path: Path, measurements: Path
) -> None:
    (tmp_path / "own").mkdir()
    arguments = ("calibrate", "--gpu", "l4", "--measurements", str(measurements))
    first = hwsearch(tmp_path, *arguments, HWSEARCH_PROFILES="own")
    again = hwsearch(tmp_path, *arguments, HWSEARCH_PROFILES="own")
    assert first.returncode == again.returncode == 0
    assert (tmp_path / "own" / "l4.yaml").exists()
    # The second starts from the first's constants, which fit.
    assert "started from constants that were calibrated" in (tmp_path / "own" / "l4.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "l4", "--measurements", "missing.csv"), "missing.csv"),
        (("--gpu", "rtx9999", "--measurements", "mine.csv"), "no GPU profile is called 'rtx9999'"),
        (("--gpu", "cpu", "--measurements", "mine.csv"), "cpu has no profile to calibrate"),
        (("--gpu", "t4", "--measurements", "mine.csv", "--dtype", "bf16"), "t4 has no bf16"),
        (("--gpu", "l4", "--measurements", "mine.csv", "--out", "mine.csv"), "mine.csv"),
    ],
)
def test_bad_input_writes_nothing(
    tmp_path: Path, measurements: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = hwsearch(tmp_path, "calibrate", *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]
