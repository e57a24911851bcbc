from __future__ import annotations

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.training.corpus import HELD_OUT_CHARACTERS, read_corpus

PLENTY = 10**9


def lines(word: str, count: int) -> str:
    return "".join(f"{word} {i}\n" for i in range(count))


def test_every_line_goes_to_one_side(tmp_path):
    texts = {f"{word}.txt": lines(word, 300) for word in ("alpha", "beta", "gamma", "delta")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    corpus = read_corpus([tmp_path], seed=1, max_characters=PLENTY)
    both = [line for text in corpus.training + corpus.held_out for line in text.splitlines()]
    assert sorted(both) == sorted(line for text in texts.values() for line in text.splitlines())
    size = sum(map(len, texts.values()))
    assert size / 20 <= sum(map(len, corpus.held_out)) < size / 20 + 20
    assert corpus == read_corpus([tmp_path], seed=1, max_characters=PLENTY)


def test_one_file_is_enough(tmp_path):
    (tmp_path / "book.md").write_text(lines("word", 1000))
    corpus = read_corpus([tmp_path / "book.md"], seed=0, max_characters=PLENTY)
    assert corpus.held_out[0] + corpus.training[0] == lines("word", 1000)


def test_reading_stops_when_there_is_enough(tmp_path):
    for i in range(50):
        (tmp_path / f"{i}.txt").write_text(lines("word", 100))
    corpus = read_corpus([tmp_path], seed=0, max_characters=2000)
    assert 2000 <= sum(map(len, corpus.training)) < 2000 + len(lines("word", 100))


def test_binary_and_hidden_files_of_a_folder_are_left_out(tmp_path):
    (tmp_path / "good.txt").write_text(lines("good", 100))
    (tmp_path / "latin.txt").write_bytes(lines("caf\xe9", 100).encode("latin-1"))
    (tmp_path / "zero.txt").write_bytes(b"text\0text\n" * 100)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(lines("hidden", 100))
    corpus = read_corpus([tmp_path], seed=0, max_characters=PLENTY)
    assert (corpus.files, corpus.skipped) == (1, 2)
    assert "hidden" not in "".join(corpus.training + corpus.held_out)


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text(lines("a", 100))
    corpus = read_corpus([tmp_path, tmp_path / "a.txt"], seed=0, max_characters=PLENTY)
    assert corpus.files == 1


def test_without_paths_it_is_the_standard_library():
    corpus = read_corpus([], seed=0, max_characters=300_000)
    assert "Python's standard library" in corpus.source
    assert "def " in corpus.training[0]
    assert HELD_OUT_CHARACTERS <= sum(map(len, corpus.held_out)) < HELD_OUT_CHARACTERS + 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9 " * 100, "not UTF-8 text"),
        (b"zero\0" * 100, "zero byte"),
        (b"", "no text"),
        (b" \n" * 100, "no text"),
    ],
)
def test_a_named_file_that_is_no_text(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(HwsearchError, match=words):
        read_corpus([tmp_path / "file"], seed=0, max_characters=PLENTY)


def test_missing_path_and_empty_folder(tmp_path):
    with pytest.raises(HwsearchError, match="nowhere: no such file"):
        read_corpus([tmp_path / "nowhere"], seed=0, max_characters=PLENTY)
    with pytest.raises(HwsearchError, match="no text"):
        read_corpus([tmp_path], seed=0, max_characters=PLENTY)
    (tmp_path / "image").write_bytes(bytes(range(256)))
    with pytest.raises(HwsearchError, match=r"1 files are not UTF-8"):
        read_corpus([tmp_path], seed=0, max_characters=PLENTY)
