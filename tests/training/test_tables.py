"""JSON lines and parquet, as they come from elsewhere."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from hwsearch.errors import HwsearchError
from hwsearch.training.tables import is_table, table_texts

TEXTS = ["first\nof two lines", "naïve 🙂", "", "last"]
KEPT = ["first\nof two lines", "naïve 🙂", "last"]


def json_lines(column="text", **more) -> str:
    return "".join(json.dumps({"id": i, column: text, **more}) + "\n" for i, text in enumerate(TEXTS))


def test_json_lines(tmp_path):
    plain, zipped = tmp_path / "a [1]*.jsonl", tmp_path / "b.json.gz"
    plain.write_text(json_lines())
    zipped.write_bytes(gzip.compress(json_lines("content", meta={"url": "x"}).encode()))
    assert list(table_texts(plain)) == list(table_texts(zipped)) == KEPT


def test_parquet(tmp_path):
    pd.DataFrame({"id": range(5), "text": [*TEXTS, None]}).to_parquet(tmp_path / "a.parquet")
    assert list(table_texts(tmp_path / "a.parquet")) == KEPT


def test_other_columns_may_vary_from_row_to_row(tmp_path):
    """Far apart, too: datasets' own reader of JSON takes the columns from the first 10 MB."""
    long = "long " * 200_000
    rows = [{"text": long, "meta": {"a": 1}}] * 11
    rows += [{"text": "two"}, {"text": None, "more": "x"}, {"text": "three", "meta": {"a": "x", "b": [2]}}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) + "\n" for row in rows))
    assert list(table_texts(tmp_path / "a.jsonl")) == [long] * 11 + ["two", "three"]


@pytest.mark.parametrize("text", ["a\u2028b\u0085c\x0cd", "carriage\rreturn", "\ud83d\ude42"])
def test_only_newlines_end_a_row(text, tmp_path):
    for ascii in (True, False):
        row = json.dumps(
            {"text": text.encode("utf-16", "surrogatepass").decode("utf-16")}, ensure_ascii=ascii
        )
        (tmp_path / "a.jsonl").write_text(f"{row}\r\n{row}", newline="")
        assert [ascii, *table_texts(tmp_path / "a.jsonl")] == [ascii, *[json.loads(row)["text"]] * 2]


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "a.jsonl").touch()
    assert list(table_texts(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.jsonl",
            b'{"words": "x", "n": 1}\n',
            "no column of text; it has words, n; accepted: text or content",
        ),
        ("a.jsonl", b'{"text": "x"}\n{"n": 1}\n', "row 2: no column of text; it has n"),
        ("a.jsonl", b'{"text": 3}\n', r"row 1: text is 3; accepted: text"),
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "cannot be read as JSON lines after row 1"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', "cannot be read as JSON lines"),
        ("a.jsonl", b'[{"text": "x"}]', "row 1: is .* not an object"),
        ("a.jsonl", b"just words\n", "cannot be read as JSON lines"),
        ("a.jsonl.gz", b"not zipped", "cannot be read as JSON lines"),
        ("a.parquet", b"PAR1 is what it should begin with", "cannot be read as parquet"),
        ("a.parquet", None, "cannot be read as parquet"),
    ],
)
def test_broken_tables_are_named(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HwsearchError, match=rf"{name}: .*{words}"):
        list(table_texts(tmp_path / name))


def test_names_decide(tmp_path):
    assert is_table(tmp_path / "A.JSONL") and is_table(tmp_path / "a.json.gz")
    assert not is_table(tmp_path / "package.json") and not is_table(tmp_path / "parquet.txt")


def test_a_parquet_file_without_text(tmp_path):
    pd.DataFrame({"id": [1], "title": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(HwsearchError, match="no column of text; it has id, title; accepted: text or content"):
        list(table_texts(tmp_path / "a.parquet"))
    pd.DataFrame({"text": [b"bytes"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(HwsearchError, match=r"row 1: text is b'bytes'; accepted: text"):
        list(table_texts(tmp_path / "a.parquet"))
