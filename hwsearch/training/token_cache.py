"""A corpus tokenized once: memory-mapped files in a cache folder, either whole or absent.

A folder per set of paths, tokenizer and size:

    tokens.bin       ids of all documents, uint16 or uint32, held-out documents first
    offsets.npy      where each document begins, int64 [documents + 1]
    tokenizer.json   and tokenizer_config.json
    meta.json        `_Meta`
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hwsearch.errors import HwsearchError
from hwsearch.files import hold_in_turn, make_folder, read_text
from hwsearch.kernels.tuned import cache_folder
from hwsearch.training.corpus import Corpus, Document, find_corpus, read_documents
from hwsearch.training.sequences import Documents
from hwsearch.training.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

FORMAT = 1
LEAST_TOKENS = 1 << 20
CHARACTERS_AT_ONCE = 1 << 22
SECONDS_BETWEEN_LINES = 10.0
MOST_UNKNOWN = 0.5
LONGEST_INPUT = 1 << 20  # tokenizer_config.json wants a number; the model's folder gets the shape's


@dataclass(frozen=True)
class TokenCache:
    """Text ready to train on.

    Attributes:
        source: where the text is from, for people.
        digest: of the tokens; two caches with one digest give the same runs.
        held_out: documents for evaluation alone. The tokenizer has not seen them either.
    """

    folder: Path
    source: str
    digest: str
    tokenizer: TextTokenizer
    training: Documents
    held_out: Documents


@dataclass(frozen=True)
class _Meta:
    """meta.json: `corpus` is the digest of the files, `digest` that of the tokens."""

    corpus: str
    dtype: str
    tokens: int
    documents: int
    held_out_documents: int
    digest: str


def token_cache(
    paths: Sequence[Path],
    *,
    vocab_size: int,
    tokenizer: Path | None = None,
    tokens: int | None = None,
    report: Callable[[str], None] = print,
) -> TokenCache:
    """The tokens of a corpus, from the cache if it is unchanged since.

    Processes that ask for the same cache at once wait for the first one to build it.

    Args:
        paths: as for `find_corpus`.
        vocab_size: rows of the embedding.
        tokenizer: a tokenizer.json or its folder; None trains one on the text.
        tokens: to train on; reading stops soon after there are so many. None reads everything. The
            number is rounded up to a power of two and 2^20 at least, so that similar runs share a cache.

    Raises HwsearchError for a corpus that is empty, too small to hold some out or not text, a
    tokenizer that does not fit `vocab_size` or the text, and a disk that is full.
    """
    corpus = find_corpus(paths)
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    if loaded and tokenizer:
        loaded.check_fits(vocab_size, tokenizer)
    limit = None if tokens is None else max(LEAST_TOKENS, 1 << (tokens - 1).bit_length())
    identity = [FORMAT, [str(path.resolve()) for path in paths]]
    identity += [loaded.digest if loaded else vocab_size, limit]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()
    folder = cache_folder() / "tokens" / key
    make_folder(folder.parent)
    waiting = f"{corpus.source}: waiting for the process that tokenizes it"
    with hold_in_turn(folder.with_suffix(".lock"), lambda: report(waiting)):
        if folder.exists():
            try:
                return _open(folder, corpus)
            except _UnusableError as problem:
                report(f"{corpus.source}: {problem}; tokenizing it again")
        _build(folder, corpus, loaded, vocab_size, limit, report)
        return _open(folder, corpus)


class _UnusableError(Exception):
    """Why a cache cannot serve."""


def _open(folder: Path, corpus: Corpus) -> TokenCache:
    try:
        meta = _Meta(**json.loads(read_text(folder / "meta.json")))
        if meta.corpus != corpus.digest:
            raise _UnusableError("the text has changed since it was tokenized")
        # Plain arrays over the mapped files: the memmap class costs more than small reads from it.
        tokens = np.asarray(np.memmap(folder / "tokens.bin", dtype=meta.dtype, mode="r"))
        offsets = np.asarray(np.load(folder / "offsets.npy", mmap_mode="r"))
        tokenizer = load_tokenizer(folder)
    except (OSError, EOFError, ValueError, TypeError, HwsearchError) as error:
        raise _UnusableError(f"its cached tokens cannot be read ({error})") from error
    if len(tokens) != meta.tokens or offsets.shape != (meta.documents + 1,) or offsets[-1] != meta.tokens:
        raise _UnusableError("its cached tokens are damaged")
    held_out = meta.held_out_documents
    return TokenCache(
        folder=folder,
        source=corpus.source,
        digest=meta.digest,
        tokenizer=tokenizer,
        training=Documents(tokens, offsets[held_out:]),
        held_out=Documents(tokens, offsets[: held_out + 1]),
    )


def _build(
    folder: Path,
    corpus: Corpus,
    tokenizer: TextTokenizer | None,
    vocab_size: int,
    limit: int | None,
    report: Callable[[str], None],
) -> None:
    """Write everything beside `folder`, then rename: what a killed process leaves is removed by the next."""
    for left_over in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    skipped: set[Path] = set()
    try:
        temporary.mkdir()
        if tokenizer is None:
            files = f"{len(corpus.files):,} files"
            report(f"{corpus.source}: {files}; training a tokenizer of {vocab_size:,} entries")
            tokenizer = train_tokenizer(
                (document.text for document in read_documents(corpus, skipped) if not document.held_out),
                vocab_size,
            )
        tokenizer.save(temporary, max_length=LONGEST_INPUT)
        meta = _write_tokens(temporary, corpus, tokenizer, limit, skipped, report)
        (temporary / "meta.json").write_text(json.dumps(asdict(meta), indent=2) + "\n")
        _sync(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise HwsearchError(
            f"{folder.parent}: cannot keep the tokens of {corpus.source} here: {error.strerror};"
            " accepted: a folder with room for them in $HWSEARCH_CACHE"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if skipped:
        report(f"{corpus.source}: left out {len(skipped):,} files that are not UTF-8 text")


def _write_tokens(
    folder: Path,
    corpus: Corpus,
    tokenizer: TextTokenizer,
    limit: int | None,
    skipped: set[Path],
    report: Callable[[str], None],
) -> _Meta:
    dtype = np.dtype(np.uint16 if tokenizer.largest_id < 1 << 16 else np.uint32)
    digest = hashlib.blake2b(digest_size=12)
    lengths = array("q")
    held_out_documents = held_out_tokens = tokens = unknown = 0
    last_line = time.monotonic()
    with open(folder / "tokens.bin", "wb") as file:
        for documents in _portions(read_documents(corpus, skipped)):
            for document, ids in zip(documents, tokenizer.encode([d.text for d in documents]), strict=True):
                if not ids:
                    continue
                content = np.array(ids, dtype)
                file.write(content.data)
                digest.update(content.data)
                lengths.append(len(ids))
                tokens += len(ids)
                unknown += int((content == tokenizer.unknown_id).sum())
                if document.held_out:
                    held_out_documents += 1
                    held_out_tokens = tokens
            if limit is not None and tokens - held_out_tokens >= limit:
                break
            if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                report(f"{corpus.source}: {tokens:,} tokens so far")
    if held_out_tokens == 0 or tokens == held_out_tokens:
        left_out = f" ({len(skipped)} files are not UTF-8 text)" if skipped else ""
        raise HwsearchError(f"{corpus.source}: no text to train on, or too little to hold some out{left_out}")
    if unknown > MOST_UNKNOWN * tokens:
        raise HwsearchError(
            f"{corpus.source}: the tokenizer does not know {unknown / tokens:.0%} of the text;"
            f" accepted: one that knows {1 - MOST_UNKNOWN:.0%} of it"
        )
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    digest.update(offsets.data)
    np.save(folder / "offsets.npy", offsets)
    return _Meta(
        corpus=corpus.digest,
        dtype=dtype.name,
        tokens=tokens,
        documents=len(lengths),
        held_out_documents=held_out_documents,
        digest=digest.hexdigest(),
    )


def _portions(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Enough documents at once to keep every core busy, few enough to keep in memory."""
    portion: list[Document] = []
    characters = 0
    for document in documents:
        portion.append(document)
        characters += len(document.text)
        if characters >= CHARACTERS_AT_ONCE:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
