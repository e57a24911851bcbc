"""Calibration against a GPU whose true constants are known, because the test made its measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwsearch.cost.calibrate import KNOBS, calibrate, turned
from hwsearch.cost.gemm import gemm_seconds
from hwsearch.cost.stream import stream_seconds
from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import load_gpu, profile_path
from hwsearch.gpu.profile import Gpu
from hwsearch.gpu.profile_file import read_profile
from hwsearch.gpu.profile_text import write_calibration

L4 = load_gpu("l4")
STILL = {knob.name: 1.0 for knob in KNOBS}


def truth(**factors: float) -> Gpu:
    """An L4 whose constants differ from the profile's by these factors."""
    named = {name.replace("_", " "): factor for name, factor in factors.items()}
    return turned(L4, {**STILL, **named}, frozenset(("bf16",)))


def gemm_rows(gpu: Gpu, count: int = 150, noise: float = 0.03) -> list[str]:
    random = np.random.default_rng(0)
    m, n, k = (2 ** random.uniform(low, 13, count) for low in (3, 8, 7))
    sizes = np.stack([m, n, k]).astype(int)
    seconds = gemm_seconds(gpu, "bf16", *sizes) * np.exp(noise * random.standard_normal(count))
    return [f"gemm,{a},{b},{c},,,{1e3 * s}" for a, b, c, s in zip(*sizes, seconds, strict=True)]


def table(folder: Path, rows: list[str], header: str = "op,m,n,k,rows,cols,measured_ms") -> Path:
    path = folder / "measured.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def test_finds_the_constants_that_made_the_measurements(tmp_path: Path) -> None:
    gpu = truth(rate_of_products=1.5, bandwidth_of_products=0.8)
    found = calibrate(table(tmp_path, gemm_rows(gpu)), L4)
    assert found.before.absolute > 12
    assert found.after is not None and found.after.absolute < 5
    assert found.factors["rate of products"] == pytest.approx(1.5, rel=0.05)
    assert found.factors["bandwidth of products"] == pytest.approx(0.8, rel=0.05)
    assert "rate of attention" not in found.factors and "bandwidth of streams" not in found.factors


def test_what_was_not_measured_stays_as_it_was(tmp_path: Path) -> None:
    found = calibrate(table(tmp_path, gemm_rows(truth(rate_of_products=1.5))), L4)
    before, after = L4.calibration, found.gpu.calibration
    assert after.stream == before.stream and after.attention == before.attention
    assert after.gemm["fp32"] == before.gemm["fp32"]
    # fp16 and tf32 run on the units that were timed.
    assert after.gemm["fp16"] != before.gemm["fp16"] and after.gemm["tf32"] != before.gemm["tf32"]
    assert after.kind == "calibrated" and after.gemm["bf16"].evidence.kind == "calibrated"
    assert after.gemm["bf16"].evidence.rows == 150


def test_a_mixed_table_moves_each_operator_by_its_own_rows(tmp_path: Path) -> None:
    gpu = truth(rate_of_products=1.3, bandwidth_of_streams=0.85)
    sizes = [(2**i, 1024) for i in range(10, 18)]
    rows = [f"layernorm,,,,{r},{c},{1e3 * stream_seconds(gpu, 'bf16', r, c, 'layernorm')}" for r, c in sizes]
    found = calibrate(table(tmp_path, gemm_rows(gpu) + rows), L4)
    assert found.factors["rate of products"] == pytest.approx(1.3, rel=0.06)
    assert found.factors["bandwidth of streams"] == pytest.approx(0.85, rel=0.05)


def test_a_single_anchor_run_moves_what_it_shows(tmp_path: Path) -> None:
    size = 8192
    seconds = float(gemm_seconds(truth(rate_of_products=1.4), "bf16", size, size, size))
    found = calibrate(table(tmp_path, [f"gemm,{size},{size},{size},,,{1e3 * seconds}"]), L4)
    assert found.after is None and found.rows == 1
    assert found.fitted.absolute < 0.4 * found.before.absolute
    assert 1.2 < found.factors["rate of products"] < 1.45
    assert found.factors.get("floor of products", 1.0) == pytest.approx(1, abs=0.02)
    old = L4.calibration.gemm["bf16"].evidence
    assert found.gpu.calibration.gemm["bf16"].evidence.low_factor == old.low_factor


def test_a_whole_model_is_a_measurement_too(tmp_path: Path) -> None:
    header = "layers,hidden,heads,ffn,batch,seq,runtime,measured_ms"
    path = table(tmp_path, ["12,768,12,3072,32,128,tensorrt,8.0"], header)
    found = calibrate(path, L4)
    assert abs(found.fitted.bias) < 0.5 * abs(found.before.bias)


def test_a_right_profile_is_left_alone(tmp_path: Path) -> None:
    found = calibrate(table(tmp_path, gemm_rows(L4)), L4)
    assert all(factor == pytest.approx(1, abs=0.02) for factor in found.factors.values())


def test_the_written_profile_predicts_the_same(tmp_path: Path) -> None:
    found = calibrate(table(tmp_path, gemm_rows(truth(rate_of_products=1.5))), L4)
    write_calibration(profile_path("l4"), tmp_path / "l4.yaml", found.gpu.calibration)
    read = read_profile(tmp_path / "l4.yaml")
    sizes = np.array([64, 512, 4096])
    expected = gemm_seconds(found.gpu, "bf16", sizes, 1024, 1024)
    assert gemm_seconds(read, "bf16", sizes, 1024, 1024) == pytest.approx(expected, rel=2e-3)
    assert read.calibration.gemm["bf16"].evidence.kind == "calibrated"
    assert read.sources == L4.sources


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["gemm,8,8,8"], "op,m,n,k", r"measured\.csv:1: lacks the column measured_ms"),
        (
            ["gemm,8,8,8,0"],
            "op,m,n,k,measured_ms",
            r":2: column measured_ms: found '0'; accepted: a number ab",
        ),
        (["gemm,8,8,8,nan"], "op,m,n,k,measured_ms", r":2: column measured_ms: found 'nan'"),
        (["gemm,8,8,8,1,t4"], "op,m,n,k,measured_ms,gpu", r":2: column gpu: found 't4'; accepted: l4"),
        (["spin,8,8,8,1"], "op,m,n,k,measured_ms", r":2: column op: found 'spin'"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(HwsearchError, match=message):
        calibrate(table(tmp_path, rows, header), L4)


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e300])
def test_times_in_another_unit_are_refused(tmp_path: Path, unit: float) -> None:
    row = f"gemm,1024,1024,1024,{0.05 * unit}"
    with pytest.raises(HwsearchError, match=r"measured\.csv: column measured_ms: .* milliseconds"):
        calibrate(table(tmp_path, [row], "op,m,n,k,measured_ms"), L4)


def test_absurd_rows_do_not_carry_the_constants_away(tmp_path: Path) -> None:
    rows = gemm_rows(L4)
    absurd = [f"gemm,{256 + i},1024,1024,,,1e300" for i in range(70)]
    found = calibrate(table(tmp_path, rows + absurd), L4)
    assert all(0.1 <= factor <= 10 for factor in found.factors.values())
