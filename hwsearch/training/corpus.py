"""Text from files and folders, divided into training and held-out text before anything reads it."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwsearch.errors import HwsearchError

HELD_OUT_CHARACTERS = 1 << 16
HELD_OUT_SHARE = 20  # a small corpus gives up one twentieth


@dataclass
class Corpus:
    """Documents; no character is in both lists.

    Attributes:
        training: one text per file.
        held_out: for evaluation only; the tokenizer does not see it either.
        files: text files read. Reading stops once there is enough.
        skipped: files of a folder that are not UTF-8 text or cannot be read.
    """

    source: str
    training: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    files: int = 0
    skipped: int = 0


def read_corpus(paths: Sequence[Path], *, seed: int, max_characters: int) -> Corpus:
    """Read files in an order drawn from `seed` until `max_characters` are there to train on.

    Args:
        paths: text files, and folders whose UTF-8 files are read (hidden ones are left out). None
            at all means the sources of Python's own standard library.
        seed: the order decides which text is held out.
        max_characters: of training text.

    Raises HwsearchError for a path that does not exist, a named file that is not text, and a
    corpus with too little text to divide.
    """
    files = _files_of(paths) if paths else [(path, False) for path in _standard_library()]
    source = ", ".join(str(path) for path in paths) or "Python's standard library"
    corpus = Corpus(source)
    held_out_left = min(HELD_OUT_CHARACTERS, sum(_size(path) for path, _ in files) // HELD_OUT_SHARE)
    characters = 0
    for index in np.random.default_rng(seed).permutation(len(files)):
        text = _read(*files[index])
        if text is None:
            corpus.skipped += 1
            continue
        corpus.files += 1
        if held_out_left > 0:
            cut = _line_end(text, held_out_left)
            corpus.held_out.append(text[:cut])
            held_out_left -= cut
            text = text[cut:]
        if text.strip():
            corpus.training.append(text)
            characters += len(text)
        if characters >= max_characters:
            break
    if not any(text.strip() for text in corpus.held_out) or not corpus.training:
        skipped = f" ({corpus.skipped} files are not UTF-8 text)" if corpus.skipped else ""
        raise HwsearchError(f"{source}: no text to train on, or too little to hold some out{skipped}")
    return corpus


def _files_of(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Files, each once, and whether the user named the file itself."""
    named: dict[Path, bool] = {}
    for path in paths:
        if path.is_dir():
            named |= {file.resolve(): False for file in _walk(path)}
        elif path.is_file():
            named[path.resolve()] = True
        else:
            raise HwsearchError(f"{path}: no such file or folder; accepted: text files and folders of them")
    return list(named.items())


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"}
    files = [path for path in _walk(root) if path.suffix == ".py" and not installed & set(path.parts)]
    if not files:
        raise HwsearchError(f"{root}: holds no sources of Python's standard library; name text with --data")
    return files


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, named: bool) -> str | None:
    """The text, or None where a folder's file is none; a file that the user named must be text."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if named:
            raise HwsearchError(f"{path}: not UTF-8 text (byte {error.start})") from error
        return None
    except OSError as error:
        if named:
            raise HwsearchError(f"{path}: cannot read: {error.strerror}") from error
        return None
    if "\0" in text:
        if named:
            raise HwsearchError(f"{path}: not text: holds a zero byte")
        return None
    return text


def _line_end(text: str, at_least: int) -> int:
    """The first end of a line at or after `at_least` characters."""
    end = text.find("\n", at_least - 1)
    return len(text) if end < 0 else end + 1
