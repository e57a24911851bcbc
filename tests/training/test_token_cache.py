"""Text tokenized once: opened again, built again when it must be, and never half there."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from hwsearch.errors import HwsearchError
from hwsearch.training import token_cache as module
from hwsearch.training.token_cache import token_cache
from hwsearch.training.tokenizer import train_tokenizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").mkdir()
    for name in ("a", "b", "c"):
        lines = (f"{name} line {i} of some words\n" for i in range(300))
        (tmp_path / "text" / f"{name}.txt").write_text("".join(lines))
    return tmp_path / "text"


def opened(text, lines=None, **options):
    lines = [] if lines is None else lines
    return token_cache([text], **{"vocab_size": 320, "report": lines.append} | options)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_the_cache_holds_the_text(text, folder):
    cache = opened(text)
    decode = cache.tokenizer.tokenizer.decode
    read = "".join(
        decode(documents.tokens[begin:end].tolist())
        for documents in (cache.held_out, cache.training)
        for begin, end in zip(documents.offsets[:-1], documents.offsets[1:], strict=True)
    )
    files = [path.read_text() for path in text.iterdir()]
    assert sorted(read.splitlines()) == sorted("".join(files).splitlines())
    assert cache.held_out.offsets[-1] == cache.training.offsets[0] > 0
    assert cache.training.tokens.dtype == np.uint16
    assert len(cache.held_out) + len(cache.training) == len(cache.training.offsets) + len(cache.held_out) - 1


def test_transformers_reads_the_same_tokens(text, folder):
    """A peer's ids for the first document to train on, through the saved tokenizer."""
    cache = opened(text)
    ids = cache.training.tokens[slice(*cache.training.offsets[:2])].tolist()
    theirs = AutoTokenizer.from_pretrained(cache.folder)
    assert theirs(theirs.decode(ids), add_special_tokens=False)["input_ids"] == ids


def test_it_is_opened_again_without_reading_the_text(text, folder, monkeypatch):
    first = opened(text)
    monkeypatch.setattr(module, "read_documents", None)
    lines: list[str] = []
    again = opened(text, lines)
    assert lines == [] and again.digest == first.digest
    assert again.tokenizer.digest == first.tokenizer.digest
    assert np.array_equal(again.training.tokens, first.training.tokens)


def test_another_tokenizer_has_a_cache_of_its_own(text, folder, tmp_path):
    first = opened(text)
    train_tokenizer(["other words " * 20], 300).save(tmp_path / "tokenizer", 512)
    second = opened(text, tokenizer=tmp_path / "tokenizer")
    assert second.folder != first.folder and second.tokenizer.largest_id == 299
    assert opened(text).digest == first.digest != second.digest


def test_changed_text_is_tokenized_again(text, folder):
    first = opened(text)
    still_open = first.training.tokens.copy()
    (text / "d.txt").write_text("new words\n" * 300)
    lines: list[str] = []
    second = opened(text, lines)
    assert "has changed since it was tokenized; tokenizing it again" in lines[0]
    assert second.training.token_count > first.training.token_count and second.digest != first.digest
    # Who has the old cache open keeps it.
    assert np.array_equal(first.training.tokens, still_open)
    assert names(folder) == [second.folder.name]


@pytest.mark.parametrize("damage", ["cut", "meta", "offsets", "empty", "tokenizer", "missing"])
def test_a_damaged_cache_is_built_again(damage, text, folder):
    first = opened(text)
    if damage == "cut":
        os.truncate(first.folder / "tokens.bin", 100)
    elif damage == "missing":
        (first.folder / "tokens.bin").unlink()
    else:
        names = {"meta": "meta.json", "offsets": "offsets.npy", "tokenizer": "tokenizer.json"}
        (first.folder / names.get(damage, "offsets.npy")).write_text("" if damage == "empty" else "{}")
    lines: list[str] = []
    assert opened(text, lines).digest == first.digest
    assert "cached tokens" in lines[0] and "tokenizing it again" in lines[0]


def test_processes_at_once_build_it_once(text, folder):
    """Threads lock each other out as processes do: each opens the lock's file for itself."""
    lines: list[str] = []
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(opened(text, lines).digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1 and len(digests) == 4
    assert sum("training a tokenizer" in line for line in lines) == 1
    assert all("training a tokenizer" in line or "waiting for the process" in line for line in lines)


def test_what_a_killed_process_left_is_removed(text, folder):
    name = opened(text).folder.name
    shutil.rmtree(folder / name)
    (folder / f".{name}.123.0011aabb.tmp").mkdir()
    (folder / f".{name}.123.0011aabb.tmp" / "tokens.bin").write_bytes(b"half")
    opened(text)
    assert names(folder) == [name]


def test_a_full_disk_leaves_nothing(text, folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (text / "more.txt").write_text("".join(f"{i} and more\n" for i in range(8_000)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(HwsearchError, match=rf"{folder}: cannot keep .* {os.strerror(errno.EFBIG)}"):
            opened(text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == []
    assert opened(text).training.token_count > 30_000


def test_ctrl_c_leaves_nothing(text, folder):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(text, report=interrupt)
    assert names(folder) == []


def test_reading_stops_when_there_is_enough(text, folder, monkeypatch):
    monkeypatch.setattr(module, "LEAST_TOKENS", 1 << 10)
    monkeypatch.setattr(module, "CHARACTERS_AT_ONCE", 1)
    everything, some = opened(text), opened(text, tokens=1500)
    assert 2048 <= some.training.token_count < everything.training.token_count
    assert opened(text, tokens=1100).folder == some.folder
    assert opened(text, tokens=10**9).digest == everything.digest


def test_a_large_vocabulary_takes_four_bytes_a_token(text, folder, monkeypatch):
    monkeypatch.setattr(module, "train_tokenizer", lambda texts, size: large)
    large = train_tokenizer(["some words " * 20], 300)
    large.tokenizer.add_tokens([f"line {i}" for i in range(66_000)])
    cache = opened(text, vocab_size=66_304)
    assert cache.training.tokens.dtype == np.uint32 and cache.training.tokens.max() > 256


def test_a_tokenizer_that_does_not_know_the_text(text, folder, tmp_path):
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*specials, "hello"])}
    foreign = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.add_special_tokens(specials)
    foreign.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(HwsearchError, match=r"does not know 100% of the text"):
        opened(text, tokenizer=tmp_path / "tokenizer.json")
    assert names(folder) == []


def test_a_tokenizer_too_large_for_the_shape(text, folder, tmp_path):
    train_tokenizer(["some words " * 20], 330).save(tmp_path / "tokenizer", 512)
    with pytest.raises(HwsearchError, match=r"tokenizer: has 330 entries, .* vocab_size is 320; .* best 384"):
        opened(text, tokenizer=tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no text"), (b"one line", "no text"), (b"\xff" * 99, "1 files are not UTF-8")],
)
def test_a_corpus_without_text(content, words, tmp_path, folder):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "file").write_bytes(content)
    with pytest.raises(HwsearchError, match=words):
        opened(tmp_path / "text")
    assert names(folder) == []


def test_a_cache_folder_that_cannot_be(text, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HwsearchError, match="file is a file"):
        opened(text)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HWSEARCH_CACHE", str(tmp_path))
    assert module.cache_folder() == tmp_path
    monkeypatch.delenv("HWSEARCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert module.cache_folder() == tmp_path / "home" / ".cache" / "hwsearch"


def test_text_json_lines_and_parquet_in_one_folder(text, folder):
    rows = [{"text": f"row {i} of words", "id": i} for i in range(20)]
    (text / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame({"content": [f"cell {i} of words" for i in range(20)]}).to_parquet(text / "cells.parquet")
    cache = opened(text)
    everything = cache.tokenizer.tokenizer.decode(
        cache.training.tokens[: cache.training.offsets[-1]].tolist()
    )
    assert all(f"{word} {i} of words" in everything for word in ("row", "cell") for i in range(20))
    assert "c line 299 of some words" in everything
