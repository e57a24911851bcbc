"""Reading a CSV table, and answering it without touching what the user wrote."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsearch.csv_table import CsvTable, read_csv, whole_number
from hwsearch.errors import HwsearchError


def table_of(folder: Path, content: str | bytes) -> CsvTable:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path)


def test_the_users_own_text_stays(tmp_path: Path) -> None:
    """Byte order mark, CRLF, quotes, a line break within a cell, an empty line, no line ending at the end."""
    text = '\ufeff"note", m ,n\r\n"a, ""b""\r\nc",007,3\r\n\r\nx, 4.0,5'
    table = table_of(tmp_path, text)
    assert table.header == ("note", "m", "n") and table.lines == [2, 5]
    assert table.column("m") == ["007", "4.0"] and table.column("absent") == ["", ""]
    assert table.integers("m", 1, 9, np.arange(2)).tolist() == [7, 4]
    answered = table.with_columns({"a": ["1", "2"], "b": ["3", "4"]})
    assert answered == '\ufeff"note", m ,n,a,b\r\n"a, ""b""\r\nc",007,3,1,3\r\n\r\nx, 4.0,5,2,4\n'


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00\ufeff"), max_size=8)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1)))
def test_any_cell_that_csv_can_write_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    header = [f"c{i}" for i in range(len(rows[0]))]
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    kept = [row for row in rows if len(row) > 1 or row[0].strip()]
    if not kept:
        return
    table = table_of(tmp_path_factory.mktemp("csv"), written.getvalue())
    answer = table.with_columns({"answer": [str(i) for i in range(len(kept))]})
    back = list(csv.reader(io.StringIO(answer, newline="")))
    assert back[0] == [*header, "answer"]
    assert [row for row in back[1:] if len(row) > 1] == [[*row, str(i)] for i, row in enumerate(kept)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("12.0", 12), ("1e6", 1_000_000), ("-1", -1), ("+3", 3), ("007", 7)]
    + [
        (text, None)
        for text in ("", "1.5", "nan", "inf", "-inf", "1_000", "0x10", "1,000", "٣", "12 ms", "1e999")
    ],
)
def test_whole_numbers(text: str, value: int | None) -> None:
    assert whole_number(text) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "table.csv: is empty"),
        (b"\n\n", "table.csv: is empty"),
        (b"op,m\n", "table.csv: has a header but no rows"),
        (b"\nop,m,op\ngemm,1,2\n", "table.csv:2: the column 'op' stands here 2 times"),
        (b"a,b\n1,2\n\n1,2,3\n", "table.csv:4: 3 cells; the header has 2 columns"),
        (b"a,b\n1\n", "table.csv:2: 1 cells; the header has 2 columns"),
        (b'a,b\n1,"2\n3,4\n', "table.csv:2: not valid CSV"),
        (b"a,b\n1,\xff\n", "table.csv: not UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), "table.csv: not UTF-8 text"),
        (b"a,b\n1," + b"9" * 200_000 + b"\n", "table.csv:2: not valid CSV: field larger"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(HwsearchError) as caught:
        table_of(tmp_path, content)
    assert said in str(caught.value)


def test_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(HwsearchError, match="cannot read"):
            read_csv(path)


def test_an_error_names_line_column_what_was_found_and_what_is_accepted(tmp_path: Path) -> None:
    table = table_of(tmp_path, 'note,m\n"two\nlines",1\nx,zero\n')
    with pytest.raises(HwsearchError) as caught:
        table.integers("m", 1, 2048, np.array([0, 1]))
    said = "table.csv:4: column m: found 'zero'; accepted: a whole number from 1 to 2,048"
    assert str(caught.value).endswith(said)
    assert table.integers("m", 1, 2048, np.array([0])).tolist() == [1]
