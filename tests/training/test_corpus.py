from __future__ import annotations

import os

import pytest

from hwsearch.errors import HwsearchError
from hwsearch.training import corpus as corpus_module
from hwsearch.training.corpus import DOCUMENT_CHARACTERS, HELD_OUT_CHARACTERS, find_corpus, read_documents


def lines(word: str, count: int) -> str:
    return "".join(f"{word} {i}\n" for i in range(count))


def read(*paths, skipped=None):
    """Held-out texts and training texts."""
    documents = list(read_documents(find_corpus(paths), set() if skipped is None else skipped))
    assert documents == sorted(documents, key=lambda document: not document.held_out)
    return [d.text for d in documents if d.held_out], [d.text for d in documents if not d.held_out]


def test_every_line_goes_to_one_side(tmp_path):
    texts = {f"{word}.txt": lines(word, 300) for word in ("alpha", "beta", "gamma", "delta")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    held_out, training = read(tmp_path)
    both = [line for text in held_out + training for line in text.splitlines()]
    assert sorted(both) == sorted(line for text in texts.values() for line in text.splitlines())
    size = sum(map(len, texts.values()))
    assert size / 20 <= sum(map(len, held_out)) < size / 20 + 20
    assert (held_out, training) == read(tmp_path)


def test_one_file_is_enough(tmp_path):
    (tmp_path / "book.md").write_text(lines("word", 1000))
    held_out, training = read(tmp_path / "book.md")
    assert held_out[0] + training[0] == lines("word", 1000)


def test_text_in_one_line_is_cut_all_the_same(tmp_path):
    (tmp_path / "line.txt").write_text("word " * 20_000)
    held_out, training = read(tmp_path / "line.txt")
    assert "".join(held_out + training) == "word " * 20_000
    assert [len(text) for text in held_out] == [5000]


def test_a_long_text_becomes_several_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "DOCUMENT_CHARACTERS", 1000)
    text = "".join(f"{i} naïve 🙂\r\n" for i in range(2000)) + "x" * 5000
    (tmp_path / "book.txt").write_bytes(text.encode())
    held_out, training = read(tmp_path)
    assert "".join(held_out + training) == text
    assert max(map(len, training)) <= 2000 and all(piece.endswith("\n") for piece in training[:-4])


def test_files_are_read_in_a_shuffled_order_that_stays(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"file {i}\n" * 50)
    files = [file.path for file in find_corpus([tmp_path]).files]
    assert files == [file.path for file in find_corpus([tmp_path]).files]
    assert sorted(files) != files and len(files) == 20


def test_binary_and_hidden_files_of_a_folder_are_left_out(tmp_path):
    (tmp_path / "good.txt").write_text(lines("good", 100))
    (tmp_path / "latin.txt").write_bytes(lines("caf\xe9", 100).encode("latin-1"))
    (tmp_path / "zero.txt").write_bytes(b"text\0text\n" * 100)
    (tmp_path / "cut.txt").write_bytes("é".encode()[:1])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(lines("hidden", 100))
    skipped: set = set()
    held_out, training = read(tmp_path, skipped=skipped)
    assert {path.name for path in skipped} == {"latin.txt", "zero.txt", "cut.txt", "nowhere"}
    assert "".join(held_out + training) == lines("good", 100)


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text(lines("a", 100))
    assert len(find_corpus([tmp_path, tmp_path / "a.txt"]).files) == 1


def test_without_paths_it_is_the_standard_library():
    corpus = find_corpus([])
    assert "Python's standard library" in corpus.source
    held_out = 0
    for document in read_documents(corpus, set()):
        if not document.held_out:
            break
        held_out += len(document.text)
    assert "def " in document.text and len(document.text) < 2 * DOCUMENT_CHARACTERS
    assert HELD_OUT_CHARACTERS <= held_out < HELD_OUT_CHARACTERS + 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9 " * 100, r"not UTF-8 text \(byte 3\)"),
        (b"a" * DOCUMENT_CHARACTERS + b"caf\xe9 ", rf"not UTF-8 text \(byte {DOCUMENT_CHARACTERS + 3}\)"),
        (b"cut \xc3", r"not UTF-8 text \(byte 4\)"),
        (b"a" * (DOCUMENT_CHARACTERS - 1) + b"\xc3(", rf"\(byte {DOCUMENT_CHARACTERS - 1}\)"),
        (b"zero\0" * 100, "zero byte"),
    ],
)
def test_a_named_file_that_is_no_text(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(HwsearchError, match=words):
        read(tmp_path / "file")


def test_nothing_but_blanks_gives_no_document(tmp_path):
    for content in ("", " \n" * 100):
        (tmp_path / "file").write_text(content)
        assert read(tmp_path / "file") == ([], [])


def test_missing_path(tmp_path):
    with pytest.raises(HwsearchError, match="nowhere: no such file"):
        find_corpus([tmp_path / "nowhere"])


def test_the_digest_follows_names_sizes_and_times(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    os.utime(file, ns=(0, 1000))
    digests = {find_corpus([tmp_path]).digest}
    os.utime(file, ns=(0, 2000))
    digests.add(find_corpus([tmp_path]).digest)
    file.write_text("three")
    os.utime(file, ns=(0, 2000))
    digests.add(find_corpus([tmp_path]).digest)
    (tmp_path / "b.txt").write_text("")
    digests.add(find_corpus([tmp_path]).digest)
    assert len(digests) == 4
