"""Files: whole or absent; YAML that is safe and remembers its lines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.files import read_yaml, write_whole


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_lines_of_nested_keys(tmp_path: Path) -> None:
    document = read_yaml(yaml_file(tmp_path, "a:\n  b: 1\n  c:\n    - x\n    - y: 2\n"))
    assert document.data == {"a": {"b": 1, "c": ["x", {"y": 2}]}}
    assert document.where(("a", "b")).endswith(":2")
    assert document.where(("a", "c", 1, "y")).endswith(":5")
    assert document.where(("a", "missing", "deeper")).endswith(":1")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"x\.yaml:\d+: aliases unfold it to more than"),
        ("[" * 500 + "]" * 500, "nested"),
        ("a: 1\na: 2\n", r"x\.yaml:2: the key 'a' stands here twice"),
        ("a: [1, 2\n", r"x\.yaml:\d: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", r"x\.yaml:1: the tag .* is not plain"),
        ("a: !!python/name:os.system\n", r"x\.yaml:1: not valid YAML"),
        ("", "is empty"),
        ("? [1, 2]\n: 3\n", "a key must be a plain word"),
        ("- a\n--- \n- b\n", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_what_is_not_plain_yaml_says_where(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(HwsearchError, match=said):
        read_yaml(yaml_file(tmp_path, text))


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(HwsearchError, match="not UTF-8"):
        read_yaml(path)
    with pytest.raises(HwsearchError, match="cannot read"):
        read_yaml(tmp_path)
    path.write_text("a: " + "x" * (1 << 20))
    with pytest.raises(HwsearchError, match="larger than"):
        read_yaml(path)


def test_a_written_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_whole(path, "one")
    write_whole(path, "two")
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]
    with pytest.raises(HwsearchError, match="is a file"):
        write_whole(path / "below", "three")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(HwsearchError, match="cannot write"):
        write_whole(folder, "four")
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "answer")
    assert os.read(reader, 100) == b"answer" and pipe.is_fifo()
    os.close(reader)


def test_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x", "new")
    assert not list(tmp_path.iterdir())
