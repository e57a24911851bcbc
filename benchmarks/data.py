"""How full packed rows are, and how fast one core packs and masks, beside transformers' collator.

    OMP_NUM_THREADS=1 python benchmarks/data.py > results/data.txt

Lengths are the paper's two mixes and log-normal documents cut at 1024; ids are drawn evenly. A row of
98,304 tokens is the paper's micro-batch (96 x 1024, 12 x 8192). "full" is tokens / (rows x tokens per
row): rows hold no padding, so what is missing costs evenness alone. Rates are real tokens per second of
processor time on one thread, which other work on the machine disturbs less, the best of ROUNDS. The
collator is DataCollatorForLanguageModeling on lists of ids, padded to the longest of as many sequences as
a row holds on average; its share of real tokens stands beside it.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from hwsearch.training.batches import batches
from hwsearch.training.sequences import Documents
from hwsearch.training.token_cache import TokenCache
from hwsearch.training.tokenizer import TextTokenizer, train_tokenizer

VOCABULARY, MASK_SHARE = 50_368, 0.3
TOKENS, ROUNDS = 2_000_000, 3
ROWS = ((8192, 1), (16_384, 1), (98_304, 1), (98_304, 6))

Lengths = NDArray[np.int64]


def mixes() -> dict[str, tuple[Lengths, int]]:
    """Tokens of each document, CLS and SEP included, and the sequence length."""
    generator = np.random.default_rng(42)

    def normal(mean: int, deviation: int, longest: int) -> Lengths:
        drawn = generator.normal(mean, deviation, 3 * TOKENS // mean)
        return np.clip(drawn, 32, longest).astype(np.int64)

    web = generator.lognormal(6.2, 1.0, 20_000).astype(np.int64) + 3
    return {
        "normal:256,64,32..512": (normal(256, 64, 512), 512),
        "normal:4096,1024,32..8192": (normal(4096, 1024, 8192), 8192),
        "log-normal, median 493": (web, 1024),
    }


def word_tokenizer(vocabulary: int) -> TextTokenizer:
    """For drawn ids: the unused entries of this small tokenizer count as words."""
    tokenizer = train_tokenizer(["a few words " * 20], vocabulary)
    tokenizer.__dict__["is_ordinary"] = np.arange(vocabulary) >= 5
    return tokenizer


def cache_of(lengths: Lengths, tokenizer: TextTokenizer) -> TokenCache:
    ids = (
        np.random.default_rng(0)
        .choice(np.flatnonzero(tokenizer.is_ordinary), int((lengths - 2).sum()))
        .astype(np.uint16)
    )
    documents = Documents(ids, np.concatenate([[0], np.cumsum(lengths - 2)]))
    return TokenCache(Path(), "drawn", "drawn", tokenizer, documents, documents)


def best_rate(read: Callable[[], int]) -> float:
    """Tokens per second of processor time in the fastest round."""
    rates = []
    for _ in range(ROUNDS):
        start = time.process_time()
        tokens = read()
        rates.append(tokens / (time.process_time() - start))
    return max(rates)


def ours(cache: TokenCache, sequence_length: int, tokens_per_row: int, rows: int) -> tuple[float, float]:
    """Share of the rows that is filled, tokens per second."""
    steps = batches(
        cache,
        sequence_length=sequence_length,
        tokens_per_row=tokens_per_row,
        rows_of_step=lambda step: rows,
        mask_share=MASK_SHARE,
        seed=0,
    )
    count = max(1, TOKENS // (rows * tokens_per_row))
    filled: list[int] = []

    def read() -> int:
        filled.extend(step.tokens for step in islice(steps, count))
        return sum(filled[-count:])

    rate = best_rate(read)
    return sum(filled) / (len(filled) * rows * tokens_per_row), rate


def collator_rate(theirs: Any, lengths: Lengths, tokens_per_row: int) -> tuple[float, float]:
    """Share of real tokens, tokens per second."""
    collator = DataCollatorForLanguageModeling(theirs, mlm_probability=MASK_SHARE)
    generator = np.random.default_rng(0)
    size = max(1, int(tokens_per_row // lengths.mean()))
    padded: list[tuple[int, int]] = []

    def examples() -> Iterator[list[dict[str, list[int]]]]:
        for start in range(0, min(len(lengths) - size, TOKENS // 20 // int(lengths.mean()) + size), size):
            yield [
                {"input_ids": generator.integers(300, VOCABULARY, n).tolist()}
                for n in lengths[start : start + size]
            ]

    prepared = list(examples())

    def read() -> int:
        tokens = 0
        for batch in prepared:
            inputs = collator(batch)["input_ids"]
            real = sum(len(example["input_ids"]) for example in batch)
            padded.append((real, inputs.numel()))
            tokens += real
        return tokens

    rate = best_rate(read)
    return sum(real for real, _ in padded) / sum(all_ for _, all_ in padded), rate


def main() -> None:
    torch.set_num_threads(1)
    print("python benchmarks/data.py")
    print(
        f"{date.today()}, {platform.machine()}, one of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__},"
        f" transformers {transformers.__version__}"
    )
    tokenizer = word_tokenizer(VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder), 8192)
        theirs = AutoTokenizer.from_pretrained(folder)
    columns = f"{'full':>7} {'M tokens/s':>11}   {'collator: real':>14} {'M tokens/s':>11}"
    print(f"{'lengths':26} {'rows':>10}   {columns}")
    for name, (lengths, sequence_length) in mixes().items():
        cache = cache_of(lengths, tokenizer)
        for tokens_per_row, rows in ROWS:
            if tokens_per_row < sequence_length:
                continue
            full, rate = ours(cache, sequence_length, tokens_per_row, rows)
            cut = np.minimum(lengths, sequence_length)
            real, their_rate = collator_rate(theirs, cut, tokens_per_row)
            print(
                f"{name:26} {f'{rows} x {tokens_per_row}':>10}   {full:7.2%} {rate / 1e6:11.1f}"
                f"   {real:14.1%} {their_rate / 1e6:11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
