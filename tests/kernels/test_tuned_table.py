"""The strict reader of tuned tables, and the classes that calls belong to."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuned_rows import CONFIGS, KEY, ONE_PASS, row, write

from hwsearch.gpu.catalog import load_gpu
from hwsearch.kernels.tuned import KERNELS, Key, length_class, read_table, window_class
from hwsearch.kernels.tuned_table import parse_table, read_header
from hwsearch.tuning.table_file import header_of, table_text


def test_classes_of_length() -> None:
    assert [length_class(n) for n in (0, 32, 33, 128, 129, 8192, 8193, 2**30)] == [
        32, 32, 64, 128, 512, 8192, 8192, 8192,
    ]  # fmt: skip


def test_classes_of_window() -> None:
    assert [window_class(w, 8192) for w in (None, 0, 64, 128, 129, 8190, 8191)] == [
        "global", "narrow", "narrow", "narrow", "wide", "wide", "global",
    ]  # fmt: skip
    assert window_class(64, 65) == "global" and window_class(64, 66) == "narrow"


@given(window=st.integers(0, 9000), max_seqlen=st.integers(0, 9000))
def test_a_window_is_global_just_where_no_key_is_hidden(window: int, max_seqlen: int) -> None:
    hides = max_seqlen > 0 and abs(0 - (max_seqlen - 1)) > window
    assert (window_class(window, max_seqlen) == "global") is not hides


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_table_is_read_as_it_was_written(tmp_path: Path, kernel: str) -> None:
    first = row(kernel, alternatives=((CONFIGS[kernel], 1.5e-4),), joules=0.1, triton="3.6.0")
    second = row(kernel, replace(KEY, length=64), source="modelled", default_seconds=None, spread=None)
    path = write(tmp_path, "h200-sxm", first, second, kernel=kernel)
    table = read_table(path)
    assert table.rows == (second, first)
    assert replace(table, rows=()) == header_of(kernel, load_gpu("h200-sxm")) == read_header(path)
    assert (table.devices, table.compute_capability, table.sms) == (("NVIDIA H200",), (9, 0), 132)


def test_the_one_pass_backward_has_settings_of_its_own(tmp_path: Path) -> None:
    short = row("attention_backward", Key("bf16", 64, "global", 64), config=ONE_PASS)
    path = write(tmp_path, "l4", short, kernel="attention_backward")
    assert read_table(path).rows == (short,)


def test_a_row_is_a_line_in_the_order_of_keys(tmp_path: Path) -> None:
    keys = [Key(d, 64, w, n) for d in ("fp16", "bf16") for w in ("wide", "global") for n in (2048, 32)]
    path = write(tmp_path, "l4", *(row(key=key) for key in keys))
    lines = path.read_text().splitlines()
    assert lines[-1] == "null]}" and all(line.endswith("},") for line in lines[3:-1])
    found = [json.loads(line[:-1]) for line in lines[3:-1]]
    assert [(r["dtype"], r["window"], r["length"]) for r in found] == [
        (d, w, n) for d in ("bf16", "fp16") for w in ("global", "wide") for n in (32, 2048)
    ]


def test_of_two_rows_that_a_merge_left_the_newest_then_the_fastest_counts() -> None:
    old = row(date="2026-11-20", seconds=1e-5)
    new, slow = row(seconds=3e-5), row(seconds=4e-5)
    modelled = row(source="modelled")
    lines = table_text(header_of("attention_forward", load_gpu("l4"))).splitlines()
    texts = [table_text(replace(header_of("attention_forward", load_gpu("l4")), rows=(each,))).splitlines()[3]
             for each in (new, old, slow, modelled, new)]  # fmt: skip
    assert parse_table("\n".join([*lines[:3], *texts, *lines[3:]])).rows == (new, modelled)


def content(**change: Any) -> dict[str, Any]:
    text = table_text(replace(header_of("attention_forward", load_gpu("h200-sxm")), rows=(row(),)))
    return json.loads(text) | change


def with_row(**change: Any) -> dict[str, Any]:
    document = content()
    return document | {"rows": [document["rows"][0] | change, None]}


def with_config(**change: Any) -> dict[str, Any]:
    return with_row(config=CONFIGS["attention_forward"] | change)


def backward(**config: Any) -> dict[str, Any]:
    return with_row(config=config) | {"kernel": "attention_backward"}


def without(key: str) -> dict[str, Any]:
    document = content()
    del document["rows"][0][key]
    return document


BROKEN = [
    ("", "Expecting value"),
    ("{", "Expecting"),
    ("[" * 100_000, "nested too deeply"),
    ("[]", r"the file: \[\]; accepted: an object"),
    ('{"format": 2, "format": 2}', "'format': stands here twice"),
    (content(format=1), "format: 1; accepted: 2"),
    (content(format=2.0), "format: 2.0"),
    (content(kernel="matmul"), "kernel: 'matmul'; accepted: \"attention_forward\", "),
    (content(gpu=""), "gpu: ''"),
    (content(devices="NVIDIA H200"), "devices: 'NVIDIA H200'; accepted: a list of names"),
    (content(devices=[3]), r"devices\[0\]: 3"),
    (content(compute_capability="9.0"), "compute_capability: '9.0'"),
    (content(compute_capability=[0, 0]), r"compute_capability: \[0, 0\]; .* null for a CPU"),
    (content(sms=True), "sms: True; accepted: a positive integer"),
    (content(notes="mine"), "the file: the key: 'notes'"),
    (content(rows=[]), "rows: .*ends with null"),
    (content(rows={}), "rows: "),
    (content(rows=[3, None]), r"rows\[0\]: 3; accepted: an object"),
    (content(rows=[None, None]), r"rows\[0\]: None"),
    (without("seconds"), r"rows\[0\]: .*; accepted: an object with seconds"),
    (with_row(colour="red"), r"rows\[0\]: the key: 'colour'"),
    (with_row(dtype="int8"), r"rows\[0\]: dtype: 'int8'; accepted: \"fp16\", \"bf16\", \"fp32\""),
    (with_row(head_size="64"), r"rows\[0\]: head_size: '64'"),
    (with_row(window="local"), r"rows\[0\]: window: 'local'; accepted: \"global\", \"narrow\", \"wide\""),
    (with_row(length=500), r"rows\[0\]: length: 500; accepted: 32, 64, 128, 512, 2048, 8192"),
    (with_row(source="guessed"), r"\(bf16, heads of 64, global, up to 512\): source: 'guessed'"),
    (with_row(seconds=0), "seconds: 0; accepted: a positive number"),
    (with_row(seconds=1e17), r"seconds: 1e\+17; accepted: a positive number below 86,400"),
    (with_row(heads=10**25), "heads: 10000000000000000000000000; accepted: 1 to 65536"),
    (with_row(seconds=math.nan), "seconds: nan"),
    (with_row(seconds="fast"), "seconds: 'fast'"),
    (with_row(seconds=10**400), "seconds: 1000"),
    (with_row(seconds=math.inf), "seconds: inf"),
    (with_row(default_seconds=-1), "default_seconds: -1"),
    (with_row(spread=-0.1), "spread: -0.1"),
    (with_row(heads=0), "heads: 0"),
    (with_row(workload=None), "workload: None"),
    (with_row(triton=3.6), "triton: 3.6"),
    (with_row(date="21.11.2026"), "date: '21.11.2026'; accepted: YYYY-MM-DD"),
    (with_row(date="9999-99-99"), "date: '9999-99-99'; accepted: YYYY-MM-DD"),
    (with_row(alternatives=[{"config": {}}]), r"alternatives\[0\]: .*with seconds"),
    (with_row(alternatives=[{"config": {}, "seconds": 1}]), r"alternatives\[0\]: config: .*with rows"),
    (with_row(config=[]), r"config: \[\]; accepted: an object"),
    (with_config(rows=48), "config.rows: 48; accepted: 16, 32, 64, 128"),
    (with_config(columns=8), "config.columns: 8"),
    (with_config(warps=3), "config.warps: 3"),
    (with_config(warps=True), "config.warps: True"),
    (with_config(stages=0), "config.stages: 0"),
    (with_config(split=1), "config.split: 1; accepted: false, true"),
    (with_config(rotate="never"), 'config.rotate: \'never\'; accepted: "load", "scratch"'),
    (with_config(unroll=2), "config: the key: 'unroll'"),
    (backward(**ONE_PASS), "config.rows: 64; accepted: a one-pass tile of 512"),
    (backward(**ONE_PASS, dq_rows=64), "config: the key: 'dq_rows'"),
    (backward(one_pass="yes"), "config: .*with dq_rows"),
    (with_row(config={"backend": "tritn"}) | {"kernel": "attention_backend"}, "config.backend: 'tritn'"),
]


@pytest.mark.parametrize(("document", "reason"), BROKEN)
def test_nonsense_is_refused_with_its_place_and_what_is_accepted(
    tmp_path: Path, document: Any, reason: str
) -> None:
    path = tmp_path / "table.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(ValueError, match=reason):
        read_table(path)


def test_a_file_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="utf-8"):
        read_table(path)
    monkeypatch.setattr("hwsearch.kernels.tuned_table.LARGEST_BYTES", 2)
    with pytest.raises(ValueError, match="larger than the 2 bytes"):
        read_table(path)


def test_a_header_is_read_of_a_table_that_somebody_laid_out_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content(), indent=4))
    assert read_header(path).gpu == "h200-sxm" and read_table(path).rows == (row(),)
