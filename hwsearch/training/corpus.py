"""Which files a corpus has, and their documents one at a time."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.training.tables import is_table, table_texts

# Longer texts become several documents, cut at ends of lines: a book needs no memory of its size.
DOCUMENT_CHARACTERS = 1 << 20
HELD_OUT_CHARACTERS = 1 << 16
LONGEST_LINE = 1 << 10  # what is cut at ends of lines has to have some
HELD_OUT_SHARE = 20  # a small corpus gives up one twentieth


@dataclass(frozen=True)
class SourceFile:
    """`named`: by the user, rather than found in a folder."""

    path: Path
    named: bool
    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Corpus:
    """Files in reading order, which is a shuffled one: the same files are always read in the same order."""

    source: str
    files: tuple[SourceFile, ...]

    @property
    def digest(self) -> str:
        """Of names, sizes and times of change."""
        lines = [f"{file.path}\n{file.bytes}\n{file.changed_ns}" for file in self.files]
        return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    @property
    def held_out_characters(self) -> int:
        return min(HELD_OUT_CHARACTERS, sum(file.bytes for file in self.files) // HELD_OUT_SHARE)


@dataclass(frozen=True)
class Document:
    text: str
    held_out: bool


def find_corpus(paths: Sequence[Path]) -> Corpus:
    """The files of `paths`.

    Args:
        paths: files, and folders whose files are taken (hidden ones are left out): text in UTF-8, a
            file a document; JSON lines and parquet with a column `text` or `content`, a row a
            document. None at all means the sources of Python's own standard library.

    Raises HwsearchError for a path that does not exist.
    """
    found = _files_of(paths) if paths else dict.fromkeys(_standard_library(), False)
    source = ", ".join(str(path) for path in paths) or "Python's standard library"
    files = [_source_file(path, named) for path, named in sorted(found.items())]
    generator = np.random.Generator(np.random.PCG64DXSM(0))
    return Corpus(source, tuple(files[index] for index in generator.permutation(len(files))))


def read_documents(corpus: Corpus, skipped: set[Path]) -> Iterator[Document]:
    """All documents with text in them, the held-out ones first; no character is in both kinds.

    Args:
        skipped: gets the files of folders that are not UTF-8 text or cannot be read.

    Raises HwsearchError for a named file that is not text, and for a broken table.
    """
    held_out_left = corpus.held_out_characters
    for file in corpus.files:
        for text in _texts(file, skipped):
            if held_out_left > 0:
                cut = _line_end(text, held_out_left)
                held_out_left -= cut
                yield from _document(text[:cut], held_out=True)
                text = text[cut:]
            yield from _document(text, held_out=False)


def _document(text: str, *, held_out: bool) -> Iterator[Document]:
    if text and not text.isspace():
        yield Document(text, held_out)


def _texts(file: SourceFile, skipped: set[Path]) -> Iterator[str]:
    if is_table(file.path):
        for text in table_texts(file.path):
            yield from _pieces(io.StringIO(text, newline=""))
        return
    problem = _not_text(file.path)
    if problem and file.named:
        raise HwsearchError(f"{file.path}: {problem}")
    if problem:
        skipped.add(file.path)
        return
    try:
        with open(file.path, encoding="utf-8", newline="") as opened:
            yield from _pieces(opened)
    except (OSError, UnicodeDecodeError) as error:
        raise HwsearchError(f"{file.path}: changed while it was read: {error}") from error


def _pieces(text: TextIO) -> Iterator[str]:
    while piece := text.read(DOCUMENT_CHARACTERS):
        yield piece + text.readline(DOCUMENT_CHARACTERS)


def _not_text(path: Path) -> str | None:
    """Why this is not UTF-8 text; None if it is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    decoded = 0
    try:
        with open(path, "rb") as opened:
            while block := opened.read(DOCUMENT_CHARACTERS):
                if b"\0" in block:
                    return "not text: holds a zero byte"
                decoder.decode(block)
                decoded = opened.tell() - len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return f"not UTF-8 text (byte {decoded + error.start})"
    except OSError as error:
        return f"cannot read: {error.strerror}"
    return None


def _files_of(paths: Sequence[Path]) -> dict[Path, bool]:
    """Files, each once, and whether the user named the file itself."""
    named: dict[Path, bool] = {}
    for path in paths:
        if path.is_dir():
            named |= {file.resolve(): False for file in _walk(path)}
        elif path.is_file():
            named[path.resolve()] = True
        else:
            raise HwsearchError(f"{path}: no such file or folder; accepted: text files and folders of them")
    return named


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"}
    files = [path for path in _walk(root) if path.suffix == ".py" and not installed & set(path.parts)]
    if not files:
        raise HwsearchError(f"{root}: holds no sources of Python's standard library; name text with --data")
    return files


def _source_file(path: Path, named: bool) -> SourceFile:
    try:
        stat = path.stat()
    except OSError:  # a dangling link; reading it says so
        return SourceFile(path, named, 0, 0)
    return SourceFile(path, named, stat.st_size, stat.st_mtime_ns)


def _line_end(text: str, at_least: int) -> int:
    """The first end of a line at or after `at_least` characters, if that is near."""
    near = at_least + LONGEST_LINE
    end = text.find("\n", at_least - 1, near)
    if end >= 0:
        return end + 1
    return len(text) if len(text) <= near else at_least
