"""measurements.jsonl as kills, full disks and other hands leave it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.search.measurements import Measurements


def row(key: str, seconds: float = 0.5) -> dict[str, object]:
    return {"key": key, "gpu": "t4", "source": "measured", "p50_s": seconds}


def test_what_was_appended_is_found_by_the_next_process(tmp_path: Path) -> None:
    first = Measurements(tmp_path / "m.jsonl", print)
    first.append(row("a"))
    first.append({"key": "b", "gpu": "t4", "source": "failed", "failure": "crash", "reason": "boom"})
    again = Measurements(tmp_path / "m.jsonl", print)
    assert again.find("t4", "a") == row("a") and again.find("l4", "a") is None
    failed = again.find("t4", "b")
    assert failed is not None and failed["reason"] == "boom"


def test_every_torn_end_is_cut_and_said(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    file = Measurements(path, print)
    file.append(row("a"))
    whole = path.read_bytes()
    file.append(row("b"))
    last = path.read_bytes()[len(whole) :]
    for length in range(1, len(last)):
        path.write_bytes(whole + last[:length])
        warned: list[str] = []
        assert Measurements(path, warned.append).find("t4", "b") is None
        assert len(warned) == 1 and f"{path}:2: a kill tore the last line" in warned[0]
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", '{"key": 1, "gpu": "t4", "source": "measured", "p50_s": 1.0}',
     '{"key": "a", "gpu": "t4", "source": "measured"}',
     '{"key": "a", "gpu": "t4", "source": "measured", "p50_s": NaN}',
     '{"key": "a", "gpu": "t4", "source": "measured", "p50_s": 0.0}'],
)  # fmt: skip
def test_a_broken_line_in_the_middle_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "m.jsonl"
    Measurements(path, print).append(row("a"))
    content = f"{broken}\n{path.read_text()}"
    path.write_text(content)
    with pytest.raises(HwsearchError, match=r"m\.jsonl:1: not a measurement"):
        Measurements(path, print)
    assert path.read_text() == content


def test_a_full_disk_leaves_the_rows_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    file = Measurements(path, print)
    file.append(row("a"))
    whole = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        HwsearchError, match="cannot write: No space left on device; the rows before are kept"
    ):
        file.append(row("b"))
    assert path.read_bytes() == whole and file.find("t4", "b") is None


def test_what_is_no_row_is_not_written(tmp_path: Path) -> None:
    file = Measurements(tmp_path / "m.jsonl", print)
    with pytest.raises(HwsearchError, match="not a measurement"):
        file.append({"key": "a", "gpu": "t4", "source": "measured", "p50_s": float("inf")})
    assert not (tmp_path / "m.jsonl").exists()
