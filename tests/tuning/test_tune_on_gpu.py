"""benchmarks/tune_on_gpu.py on a CPU: it tunes, writes tables and JSON, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_on_a_cpu(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}

    def run(*options: str) -> str:
        done = subprocess.run(
            [
                *(sys.executable, ROOT / "benchmarks" / "tune_on_gpu.py", "--smoke", "--seconds", "600"),
                *("--tables", "tables", "--work", "work", "--out", "out.json"),
                *options,
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--only", "attention_forward")
    assert not (tmp_path / "out.json").exists()
    printed = run("--only", "attention_backend fp32")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["kernel"] for row in rows] == ["attention_backend"]
    for row in rows:
        assert row["seconds"] > 0 and row["trials"] == row["configurations"] >= 2
        assert row["autotune"]["tried"] >= 1
        assert f"{row['kernel']} " in printed
        assert (tmp_path / "tables" / "cpu" / f"{row['kernel']}.json").exists()
    run()  # everything is done
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == rows
