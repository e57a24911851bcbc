"""What `hwsearch tune` says of the model where both were asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwsearch.kernels import tuned
from hwsearch.kernels.tuned import Key, Row, Table, table_path
from hwsearch.report.tuned import model_lines
from hwsearch.tuning.t4_file import Evaluation
from hwsearch.tuning.table_file import merge_rows
from hwsearch.tuning.tables import Placed

KEY = Key("bf16", 64, "global", 512)
A, B = (
    {"rows": rows, "columns": 64, "warps": 4, "stages": 2, "split": True, "rotate": "load"}
    for rows in (64, 128)
)


def test_the_models_choice_is_held_against_the_whole_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsearch.tuning.tables.folders", lambda: (tmp_path,))
    tuned.forget()
    header = Table("attention_forward", "l4", ("NVIDIA L4",), (8, 9), 58)
    measured = Row(
        KEY, "measured", B, 1.0, None, (), "fixed:512x1", 12, 0.01, None,
        "3.9.0", None, None, "2026-01-01", "timed",
    )  # fmt: skip
    modelled = replace(measured, source="modelled", config=A, spread=None, alternatives=((B, 1.1),))
    path = table_path(tmp_path, "l4", "attention_forward")
    merge_rows(path, header, [modelled])
    looked_at = [Evaluation(A, 1.25), Evaluation(B, 1.0), Evaluation(A, None, "compile")]
    (line,) = model_lines([(Placed(header, measured, path), looked_at)])
    assert "25.0 % slower" in line and "within 2 % of that is number 2 of the 2" in line
    # Nothing to say where nothing was modelled, or nothing measured.
    other = replace(measured, key=replace(KEY, length=128))
    assert model_lines([(Placed(header, other, path), looked_at)]) == []
    assert model_lines([(Placed(header, modelled, path), looked_at)]) == []
