"""`hwsearch predict FILE.csv` as other programs call it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Cli

GEMMS = "op,m,n,k,note\ngemm,1024,1024,1024,a\ngemm,2048.0,1024,1024,\n"
MODELS = "layers,hidden,heads,ffn,batch,seq\n2,128,2,512,8,64\n3,128,4-2-2,512-256-512,8,64\n"
ADDED = ["predicted_ms", "predicted_ms_low", "predicted_ms_high", "calibration"]


@pytest.fixture
def gemms(tmp_path: Path) -> Path:
    path = tmp_path / "gemms.csv"
    path.write_text(GEMMS)
    return path


def test_the_answer_is_the_same_table_with_columns_added(cli: Cli, gemms: Path, tmp_path: Path) -> None:
    printed = cli("predict", gemms, "--gpu", "l4", "--dtype", "fp16")
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert all(line.startswith(own) for line, own in zip(lines, GEMMS.splitlines(), strict=True))
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert list(rows[0]) == ["op", "m", "n", "k", "note", *ADDED]
    for row in rows:
        assert (
            0 < float(row["predicted_ms_low"]) < float(row["predicted_ms"]) < float(row["predicted_ms_high"])
        )
    written = cli("predict", gemms, "--gpu", "l4", "--dtype", "fp16", "--out", "deep/answer.csv")
    assert written.returncode == 0 and written.stdout == ""
    assert (tmp_path / "deep" / "answer.csv").read_text() == printed.stdout


def test_what_pandas_writes_and_reads(cli: Cli, tmp_path: Path) -> None:
    """Whole numbers beside empty cells become 12.0; the index becomes a column without a name."""
    table = pd.DataFrame(
        [
            {"op": "gemm", "m": 64, "n": 64, "k": 64},
            {
                "op": "attention",
                "batch_size": 2,
                "seq_len": 128,
                "num_heads": 4,
                "head_dim": 64,
                "causal": True,
            },
        ]
    )
    table.to_csv(tmp_path / "TABLE.CSV")
    done = cli("predict", "TABLE.CSV", "--gpu", "a100-sxm-80")
    assert done.returncode == 0, done.stderr
    answer = pd.read_csv(io.StringIO(done.stdout), index_col=0)
    pd.testing.assert_frame_equal(answer[table.columns], pd.read_csv(tmp_path / "TABLE.CSV", index_col=0))
    assert answer["predicted_ms"].gt(0).all()


def test_models_also_get_their_memory(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "models.csv").write_text(MODELS)
    done = cli("predict", "models.csv", "--gpu", "t4", "--runtime", "tensorrt")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0])[-5:] == [*ADDED, "predicted_bytes"]
    assert all(int(row["predicted_bytes"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workload", "fixed:8x1"), "--workload is not for a table"),
        (("--head", "mlm"), "--head is not for a table"),
        (("--json",), "--json is not for a table"),
        (("--mode", "training"), "training is for model tables"),
        (("--dtype", "tf32"), None),
    ],
)
def test_options_of_a_shape(cli: Cli, gemms: Path, arguments: tuple[str, ...], said: str | None) -> None:
    done = cli("predict", gemms, "--gpu", "a100-sxm-80", *arguments)
    assert (done.returncode == 0) if said is None else (done.returncode == 2 and said in done.stderr)


def test_a_bad_table_writes_nothing(cli: Cli, gemms: Path, tmp_path: Path) -> None:
    gemms.write_text(GEMMS.replace("2048.0", "many"))
    (tmp_path / "answer.csv").write_text("mine\n")
    for out in ((), ("--out", "answer.csv"), ("--out", "other.csv")):
        done = cli("predict", gemms, "--gpu", "l4", *out)
        assert done.returncode == 2 and done.stdout == ""
        assert "gemms.csv:3: column m: found 'many'; accepted: a whole number" in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "answer.csv").read_text() == "mine\n" and not (tmp_path / "other.csv").exists()


def test_cells_come_back_byte_for_byte(cli: Cli, gemms: Path) -> None:
    gemms.write_bytes('op,m,n,k,note\r\ngemm,1,2,3,"schön, größer"\r\n'.encode())
    done = cli("predict", gemms, "--gpu", "l4", "--out", "answer.csv", PYTHONIOENCODING="ascii")
    printed = cli("predict", gemms, "--gpu", "l4", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and printed.returncode == 0, printed.stderr
    written = (gemms.parent / "answer.csv").read_bytes()
    assert written.startswith(b"op,m,n,k,note,predicted_ms,")
    assert '\r\ngemm,1,2,3,"schön, größer",'.encode() in written and written.endswith(b"\r\n")


def test_a_flag_that_a_rows_gpu_lacks(cli: Cli, gemms: Path) -> None:
    gemms.write_text("op,m,n,k,gpu\ngemm,1,2,3,l4\ngemm,1,2,3,t4\n")
    done = cli("predict", gemms, "--gpu", "l4", "--dtype", "bf16")
    assert done.returncode == 2 and "gemms.csv:3: --dtype: t4 has no bf16; it has fp16" in done.stderr


def test_a_shape_has_no_out(cli: Cli) -> None:
    done = cli("predict", "bert-base", "--gpu", "l4", "--out", "answer.csv")
    assert done.returncode == 2 and "--out is for the answer to a table" in done.stderr
    assert "cannot read" in cli("predict", "absent.csv", "--gpu", "l4").stderr


def test_a_table_is_priced_without_pandas(gemms: Path) -> None:
    code = (
        "import sys\nfor name in ('pandas', 'torch', 'optuna', 'pyarrow'): sys.modules[name] = None\n"
        f"from hwsearch.cli import main\nsys.exit(main(['predict', {str(gemms)!r}, '--gpu', 'l4']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
